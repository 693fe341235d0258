#!/usr/bin/env bash
# Installs Debian's postgresql, which tests/fleet needs for its second database.
# Debian packages only; as root. Does nothing where a server is there already. No cluster is made.
set -euo pipefail
if ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "tests/install-postgres.sh: not root, or no apt-get: the tests on PostgreSQL will be skipped" >&2
  exit 0
fi
apt-get -o Acquire::Retries=3 update -qq
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] ||
  echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 install -y -qq --no-install-recommends \
  postgresql > /dev/null
