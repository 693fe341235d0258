#!/usr/bin/env bash
# Installs Debian's qemu-user-static and debootstrap, which the rigs of other machines need
# (hil/rigs/arm64.sh, hil/rigs/haswell.sh; make test-long).
# Debian packages only; as root. Does nothing where they are there already.
set -euo pipefail
if command -v debootstrap > /dev/null && [ -x /usr/bin/qemu-aarch64-static ]; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "tests/install-qemu.sh: not root, or no apt-get: tests on emulated machines will be skipped" >&2
  exit 0
fi
apt-get -o Acquire::Retries=3 update -qq
DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 install -y -qq --no-install-recommends \
  debootstrap qemu-user-static > /dev/null
