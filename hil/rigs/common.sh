# What the scripts beside it share: words, and runtimes that are unpacked without being run.

say() { echo "$(basename "$0"): $*" >&2; }

# What a test takes for "cannot be made here" is exit status 77.
need() { say "$1"; exit 77; }

usage() { sed -n '2,/^[^#]/s/^# \?//p' "$0"; exit 2; }

free_port() { python3 -c "import socket; print(socket.create_server(('127.0.0.1', 0)).getsockname()[1])"; }

# runtimes ARCH PYTHON FOLDER: $PACKAGES in the versions of the environment of $PYTHON, as wheels
# for another machine with glibc 2.36 (Debian 12): pip chooses and unpacks them here.
runtimes() {
  local wanted=() platforms=() minor name python=${PYTHON:-python3}
  for name in ${PACKAGES:-numpy onnxruntime openvino}; do
    wanted+=("$("$python" -c 'import importlib.metadata, sys
print(sys.argv[1] + "==" + importlib.metadata.version(sys.argv[1]))' "$name" 2> /dev/null)") ||
      need "$python has no $name: name an environment that has it, PYTHON=.venv/bin/python $0"
  done
  for minor in $(seq 17 36); do platforms+=(--platform "manylinux_2_${minor}_$1"); done
  say "its runtimes: ${wanted[*]}"
  "$python" -m pip --disable-pip-version-check -q install --no-deps --only-binary :all: --upgrade \
    --python-version "$2" --platform "manylinux2014_$1" "${platforms[@]}" --target "$3" "${wanted[@]}"
}
