#!/usr/bin/env bash
# A rig on this machine that is an x86 CPU without VNNI: the loopback rig, whose Python and all that
# it starts run under qemu's user-mode emulation. It adds as a Haswell does, and has no speed.
#
#   hil/rigs/haswell.sh up FOLDER [--port N]   makes it and starts the server
#   hil/rigs/haswell.sh down FOLDER            stops it
#
# As root, with Debian's qemu-user-static and python3-venv, and what loopback.sh needs.
#
#   CPU=Haswell                               what is emulated (qemu-x86_64-static -cpu help)
#   PACKAGES="numpy onnxruntime openvino"     its runtimes, in the versions of this environment
#   PYTHON=python3                            the environment that has them
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"
cpu=${CPU:-Haswell}
[ "$cpu" != Haswell ] || cpu=$cpu,-pcid,-x2apic,-tsc-deadline,-hle,-rtm,-invpcid  # what qemu lacks and warns of
emulator=/usr/bin/qemu-x86_64-static

up() {
  local folder python
  [ -x "$emulator" ] || need "no $emulator: apt-get install qemu-user-static"
  mkdir -p "$1"
  folder=$(cd "$1" && pwd)
  [ -e "$folder/env/made" ] || environment "$folder/env"
  bash "$here/loopback.sh" up "$folder" "${@:2}" | sed 's/^\[rig.loopback\]/[rig.haswell]/'
  echo "python = \"$folder/env/bin/python3\""
}

# An environment whose Python is a program that emulates Debian's. Python takes the name it was
# called by (-0) for its own, finds pyvenv.cfg beside it, and starts its children by that name:
# they are emulated too.
environment() {
  local version
  rm -rf "$1"
  mkdir -p "$1/bin"
  version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  printf 'home = /usr/bin\ninclude-system-site-packages = false\n' > "$1/pyvenv.cfg"
  printf '#!/bin/sh\nexec %s -cpu %s -0 "$0" /usr/bin/python%s "$@"\n' "$emulator" "$cpu" "$version" \
    > "$1/bin/python3"
  chmod 755 "$1/bin/python3"
  runtimes x86_64 "$version" "$1/lib/python$version/site-packages"
  touch "$1/made"
}

case ${1:-} in
  up) up "${@:2}" ;;
  down) bash "$here/loopback.sh" down "${@:2}" ;;
  *) usage ;;
esac
