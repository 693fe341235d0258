#!/usr/bin/env bash
# Installs Debian's chromium and chromium-driver, which tests/test_report_browser.py needs.
# Debian packages only; as root. Does nothing where both programs are there already.
set -euo pipefail
if command -v chromium > /dev/null && command -v chromedriver > /dev/null; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  echo "tests/install-browser.sh: not root, or no apt-get: the browser tests will be skipped" >&2
  exit 0
fi
apt-get -o Acquire::Retries=3 update -qq
DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 install -y -qq --no-install-recommends \
  chromium chromium-driver fonts-dejavu-core > /dev/null
