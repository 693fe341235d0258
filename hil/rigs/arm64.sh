#!/usr/bin/env bash
# An arm64 rig on this machine: a Debian root for arm64 under qemu's user-mode emulation, with its
# own OpenSSH server, Python and runtimes. It has the right instruction set and no speed.
#
#   hil/rigs/arm64.sh up FOLDER [PORT] [ADDRESS]   makes it (minutes, once) and starts the server
#   hil/rigs/arm64.sh down FOLDER                  stops it and all that runs in it
#
# As root, with Debian's debootstrap and qemu-user-static, and this environment's pip. FOLDER gets
# all there is of it; FOLDER/root stays and makes the next start quick. Remove it like any folder.
#
#   CPU=cortex-a76                            which core is emulated (qemu-aarch64-static -cpu help)
#   PACKAGES="numpy onnxruntime openvino"     its runtimes, in the versions of this environment
#   PYTHON=python3                            the environment that has them
set -euo pipefail
. "$(dirname "$0")/common.sh"
cpu=${CPU:-cortex-a76}
suite=bookworm  # its Python is 3.11, its glibc 2.36
binfmt=/proc/sys/fs/binfmt_misc

# Lets the kernel start arm64 programs; the emulator is opened now (F), so a root needs none inside.
register() {
  [ -e "$binfmt/register" ] || mount -t binfmt_misc none "$binfmt" 2> /dev/null ||
    need "this kernel, or this container, has no binfmt_misc: arm64 programs cannot be started"
  grep -qsl '^flags:.*F' "$binfmt/qemu-aarch64" "$binfmt/slipway-arm64" && return
  local magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  echo ":slipway-arm64:M::$magic:$mask:/usr/bin/qemu-aarch64-static:F" > "$binfmt/register" ||
    need "binfmt_misc cannot be written here"
}

# What the kernel of such a core would show: emulated programs see this machine's, of another
# architecture, and ONNX Runtime crashes over it. (qemu answers by itself from 8.2 on.)
cpuinfo() {
  local part features
  case ${cpu%%,*} in
    cortex-a53) part=0xd03 ;;
    cortex-a57) part=0xd07 ;;
    cortex-a72) part=0xd08 ;;
    cortex-a76) part=0xd0b ;;
    neoverse-n1) part=0xd0c ;;
    *) part=0x000 ;;
  esac
  features=$(QEMU_CPU=$cpu chroot "$1" /usr/bin/python3 -c '
import struct
words = dict(struct.iter_unpack("<QQ", open("/proc/self/auxv", "rb").read()))
names = {0: "fp", 1: "asimd", 3: "aes", 4: "pmull", 5: "sha1", 6: "sha2", 7: "crc32", 8: "atomics", 9: "fphp",
         10: "asimdhp", 12: "asimdrdm", 15: "lrcpc", 16: "dcpop", 20: "asimddp", 22: "sve"}
print(*(name for bit, name in names.items() if words[16] >> bit & 1))')
  for core in $(seq 0 $(($(nproc) - 1))); do
    printf 'processor\t: %s\nBogoMIPS\t: 100.00\nFeatures\t: %s\n' "$core" "$features"
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 0\n\n' "$part"
  done
}

# Packages are unpacked by this machine and not configured: emulated, that takes minutes, and
# nothing here needs it but what stands below.
root() {
  local root=$1 part
  part=$root.part
  [ ! -e "$root" ] || return 0
  say "making a Debian $suite root for arm64"
  rm -rf "$part"
  debootstrap --arch=arm64 --foreign --variant=minbase \
    --include=python3,openssh-server "$suite" "$part" > "$root.log" 2>&1 ||
    { tail -3 "$root.log" >&2; say "debootstrap failed: $root.log"; exit 1; }
  for package in "$part"/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$part" --keep-directory-symlink
  done
  rm -rf "$part"/var/cache/apt/archives "$part"/debootstrap "$part"/usr/share/{doc,man,locale}
  cp "$part"/usr/share/base-passwd/passwd.master "$part"/etc/passwd
  cp "$part"/usr/share/base-passwd/group.master "$part"/etc/group
  echo 'sshd:*:100:65534::/run/sshd:/usr/sbin/nologin' >> "$part"/etc/passwd
  echo 'rig:*:1000:1000::/home/rig:/bin/sh' >> "$part"/etc/passwd
  echo 'rig:x:1000:' >> "$part"/etc/group
  rm -rf "$part"/proc "$part"/sys "$part"/dev  # in a container debootstrap makes links of them
  mkdir -p "$part"/home/rig "$part"/run/sshd "$part"/proc "$part"/sys "$part"/dev
  chown 1000:1000 "$part"/home/rig
  chmod 755 "$part"
  ln -sf python3.11 "$part"/usr/bin/python3
  chroot "$part" /sbin/ldconfig
  runtimes aarch64 3.11 "$part"/usr/lib/python3/dist-packages
  mv "$part" "$root"
}

up() {
  local folder port=${2:-0} address=${3:-127.0.0.1} root
  [ "$(id -u)" = 0 ] || need "not root: no root file system can be made"
  command -v debootstrap > /dev/null || need "no debootstrap: apt-get install debootstrap"
  [ -x /usr/bin/qemu-aarch64-static ] || need "no qemu-aarch64-static: apt-get install qemu-user-static"
  mkdir -p "$1"
  folder=$(cd "$1" && pwd)
  root=$folder/root
  down "$folder"
  register
  root "$root"
  [ -e "$folder/id" ] || ssh-keygen -q -t ed25519 -N '' -C 'an arm64 rig on this machine' -f "$folder/id"
  [ -e "$folder/host" ] || ssh-keygen -q -t ed25519 -N '' -f "$folder/host"
  cp "$folder/host" "$folder/host.pub" "$root/etc/ssh/"
  cp "$folder/id.pub" "$root/etc/ssh/authorized_keys"
  cpuinfo "$root" > "$root/etc/cpuinfo"
  [ "$port" != 0 ] || port=$(free_port)
  cat > "$root/etc/ssh/sshd_config" << END
ListenAddress $address
Port $port
HostKey /etc/ssh/host
PidFile none
AuthorizedKeysFile /etc/ssh/authorized_keys
AllowUsers rig
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
SetEnv QEMU_CPU=$cpu
END
  QEMU_CPU=$cpu setsid unshare --mount --pid --fork --kill-child bash -s "$root" \
    > "$folder/sshd.log" 2>&1 << 'END' &
set -e
mount -t proc proc "$1/proc"
mount --bind "$1/etc/cpuinfo" "$1/proc/cpuinfo"
mount --rbind /dev "$1/dev"
mount --rbind /sys "$1/sys"
exec chroot "$1" /usr/sbin/sshd -D -e
END
  echo $! > "$folder/pid"
  answers "$address" "$port" || { cat "$folder/sshd.log" >&2; say "its server did not start"; exit 1; }
  echo "[$address]:$port $(cut -d' ' -f1,2 "$folder/host.pub")" > "$folder/known_hosts"
  cat << END
[rig.arm64]
host = "$address"
port = $port
user = "rig"
key = "$folder/id"
profile = "raspberry-pi-5"
END
}

answers() {
  for _ in $(seq 100); do
    python3 -c "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).recv(4)" \
      "$1" "$2" 2> /dev/null && return
    sleep 0.1
  done
  return 1
}

down() {
  local pid
  pid=$(cat "$1/pid" 2> /dev/null) || return 0
  # After a restart of this machine the number is another program's.
  [ "$(cat "/proc/$pid/comm" 2> /dev/null)" != unshare ] || kill -KILL "$pid"
  rm -f "$1/pid"
}

case ${1:-} in
  up) up "${@:2}" ;;
  down) down "${@:2}" ;;
  *) usage ;;
esac
