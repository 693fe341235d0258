#!/usr/bin/env bash
# Installs Debian's openssh-server, which tests/hil needs: a rig on this machine (hil/rigs/loopback.sh).
# Debian packages only; as root. Does nothing where it is there already.
set -euo pipefail
if [ -x /usr/sbin/sshd ]; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "tests/install-sshd.sh: not root, or no apt-get: the tests over SSH will be skipped" >&2
  exit 0
fi
apt-get -o Acquire::Retries=3 update -qq
DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 install -y -qq --no-install-recommends \
  openssh-server > /dev/null
