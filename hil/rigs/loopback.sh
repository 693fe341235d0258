#!/usr/bin/env bash
# A rig on this machine: a real OpenSSH server on the loopback address, and a user without rights.
#
#   hil/rigs/loopback.sh up FOLDER [PORT] [ADDRESS]   makes the keys and starts the server
#   hil/rigs/loopback.sh down FOLDER                  stops it
#
# As root, with Debian's openssh-server. FOLDER gets all there is of it: the server's key and
# log, the client's key (id), the file of known hosts, and the rig's own folder. The user
# slipway-rig stays.
set -euo pipefail
user=slipway-rig

say() { echo "loopback.sh: $*" >&2; }

up() {
  local folder=$1 port=${2:-0} address=${3:-127.0.0.1}
  [ "$(id -u)" = 0 ] || { say "not root: a user for the rig cannot be made"; exit 77; }
  [ -x /usr/sbin/sshd ] || { say "no /usr/sbin/sshd: apt-get install openssh-server"; exit 77; }
  id "$user" > /dev/null 2>&1 ||
    useradd --system --password '*' --create-home --home-dir "/var/lib/$user" --shell /bin/sh "$user"
  (cd / && runuser -u "$user" -- python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))') ||
    { say "the user $user finds no python3 that is 3.10 or newer: apt-get install python3"; exit 77; }
  mkdir -p /run/sshd "$folder/rig"
  chown "$user:" "$folder/rig"
  [ -e "$folder/host" ] || ssh-keygen -q -t ed25519 -N '' -f "$folder/host"
  [ -e "$folder/id" ] || ssh-keygen -q -t ed25519 -N '' -C 'a rig on this machine' -f "$folder/id"
  cp "$folder/id.pub" "$folder/authorized_keys"
  if [ "$port" = 0 ]; then
    port=$(python3 -c "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1])")
  fi
  cat > "$folder/sshd_config" << END
ListenAddress $address
Port $port
HostKey $folder/host
PidFile $folder/sshd.pid
AuthorizedKeysFile $folder/authorized_keys
AllowUsers $user
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
Subsystem sftp internal-sftp
END
  /usr/sbin/sshd -f "$folder/sshd_config" -E "$folder/sshd.log"
  echo "[$address]:$port $(cut -d' ' -f1,2 "$folder/host.pub")" > "$folder/known_hosts"
  cat << END
[rig.loopback]
host = "$address"
port = $port
user = "$user"
key = "$folder/id"
folder = "$folder/rig"
END
}

down() {
  local folder=$1
  # Those who are connected stay until they go: they may be another folder's.
  [ ! -e "$folder/sshd.pid" ] || kill "$(cat "$folder/sshd.pid")" 2> /dev/null || true
}

case ${1:-} in
  up) up "${@:2}" ;;
  down) down "${@:2}" ;;
  *) sed -n '2,9s/^# \?//p' "$0"; exit 2 ;;
esac
