#!/usr/bin/env bash
# A rig on this machine: a real OpenSSH server, and a user without rights.
#
#   hil/rigs/loopback.sh up FOLDER [--port N] [--address A] [--netns NAME]
#                                                     makes the keys and starts the server
#   hil/rigs/loopback.sh down FOLDER                  stops it, and takes the network away
#
# As root, with Debian's openssh-server. FOLDER gets all there is of it: the server's key and
# log, the client's key (id), the file of known hosts, and the rig's own folder. The user
# slipway-rig stays. What is printed is the rig's table for hil.toml.
#
# With --netns (and iproute2) the rig is a machine of its own as far as its network and its boot go:
# it has a network namespace, a link of its own, and another boot id after each start.
#
#   hil/rigs/loopback.sh link FOLDER down|up          cuts its link, and restores it
#   hil/rigs/loopback.sh power FOLDER off|on|status   ends all that runs there; starts it anew
#   hil/rigs/loopback.sh freeze FOLDER                it hangs: nothing there answers any more
#
# Exit status 77: it cannot be made here, and the line before says why.
set -euo pipefail
user=slipway-rig

say() { echo "loopback.sh: $*" >&2; }
cannot() { say "$*"; exit 77; }

up() {
  local folder=$1 port=0 netns='' address=127.0.0.1
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      --port) port=$2 ;;
      --address) address=$2 ;;
      --netns) netns=$2 ;;
      *) say "there is no option $1"; exit 2 ;;
    esac
    shift 2
  done
  [ "$(id -u)" = 0 ] || cannot "not root: a user for the rig cannot be made"
  [ -x /usr/sbin/sshd ] || cannot "no /usr/sbin/sshd: apt-get install openssh-server"
  id "$user" > /dev/null 2>&1 ||
    useradd --system --password '*' --create-home --home-dir "/var/lib/$user" --shell /bin/sh "$user"
  (cd / && runuser -u "$user" -- python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))') ||
    cannot "the user $user finds no python3 that is 3.10 or newer: apt-get install python3"
  mkdir -p /run/sshd "$folder/rig"
  chown "$user:" "$folder/rig"
  [ -e "$folder/host" ] || ssh-keygen -q -t ed25519 -N '' -f "$folder/host"
  [ -e "$folder/id" ] || ssh-keygen -q -t ed25519 -N '' -C 'a rig on this machine' -f "$folder/id"
  cp "$folder/id.pub" "$folder/authorized_keys"
  if [ -n "$netns" ]; then
    [ "$port" != 0 ] || port=22
    address=$(network "$folder" "$netns")
  elif [ "$port" = 0 ]; then
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
  start "$folder"
  echo "$(host "$address" "$port") $(cut -d' ' -f1,2 "$folder/host.pub")" > "$folder/known_hosts"
  cat << END
[rig.loopback]
host = "$address"
port = $port
user = "$user"
key = "$folder/id"
folder = "$folder/rig"
END
  [ -z "$netns" ] || cat << END
power = { model = "command", on = $(words "$folder" on), off = $(words "$folder" off), status = $(words "$folder" status), off_s = 0 }
END
}

host() { if [ "$2" = 22 ]; then echo "$1"; else echo "[$1]:$2"; fi; }
words() { echo "[\"bash\", \"$(realpath "${BASH_SOURCE[0]}")\", \"power\", \"$1\", \"$2\"]"; }

# Make the namespace, and a link to it; prints the rig's address. Its network is 10.231.x.0/30 with an
# x that follows from the name, so that rigs of several names can be up at once.
network() {
  local folder=$1 netns=$2 number link
  command -v ip > /dev/null || cannot "no ip: apt-get install iproute2"
  number=$((16 + $(echo "$netns" | cksum | cut -d' ' -f1) % 200))
  link="slip$number"
  ip netns add "$netns" > /dev/null 2>&1 || cannot "no network namespaces here, or $netns exists"
  if ! ip link add "$link" type veth peer name eth0 netns "$netns" 2> /dev/null; then
    ip netns del "$netns"
    cannot "no veth links here, or $link exists"
  fi
  ip addr add "10.231.$number.1/30" dev "$link"
  ip link set "$link" up
  ip -n "$netns" addr add "10.231.$number.2/30" dev eth0
  ip -n "$netns" link set eth0 up
  ip -n "$netns" link set lo up
  echo "$netns" > "$folder/netns"
  echo "10.231.$number.2"
}

start() {
  local folder=$1
  if [ ! -e "$folder/netns" ]; then
    /usr/sbin/sshd -f "$folder/sshd_config" -E "$folder/sshd.log"
    return
  fi
  cat /proc/sys/kernel/random/uuid > "$folder/boot_id"
  # `ip netns exec` has mounts of its own too: nobody else sees this boot id.
  ip netns exec "$(cat "$folder/netns")" bash -c '
    mount --bind "$1/boot_id" /proc/sys/kernel/random/boot_id &&
      exec /usr/sbin/sshd -f "$1/sshd_config" -E "$1/sshd.log"' bash "$folder" ||
    cannot "nothing can be mounted here: the rig has no boot id of its own"
}

# All that runs there gets a signal, whatever it descends from.
signal() {
  local pids
  pids=$(ip netns pids "$(cat "$1/netns")")
  # shellcheck disable=SC2086
  [ -z "$pids" ] || kill "-$2" $pids 2> /dev/null || true
}

power() {
  local folder=$1
  case $2 in
    on) runs "$folder" || start "$folder" ;;
    off) while runs "$folder"; do signal "$folder" KILL; sleep 0.05; done ;;
    status) runs "$folder" ;;
    *) exit 2 ;;
  esac
}

runs() { [ -n "$(ip netns pids "$(cat "$1/netns")")" ]; }

down() {
  local folder=$1
  if [ -e "$folder/netns" ]; then
    power "$folder" off
    ip netns del "$(cat "$folder/netns")"
    rm "$folder/netns"
    return
  fi
  # Those who are connected stay until they go: they may be another folder's.
  [ ! -e "$folder/sshd.pid" ] || kill "$(cat "$folder/sshd.pid")" 2> /dev/null || true
}

case ${1:-} in
  up) up "${@:2}" ;;
  down) down "$2" ;;
  power) power "$2" "$3" ;;
  link) ip -n "$(cat "$2/netns")" link set eth0 "$3" ;; # not our end: its route would go with it
  freeze) signal "$2" STOP ;;
  *) sed -n '2,20s/^# \?//p' "$0"; exit 2 ;;
esac
