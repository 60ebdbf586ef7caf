#!/bin/sh
# image.sh DIR: a Debian 12 with systemd and Nix in DIR/root, made once; the directory is kept for the next time.
# Exits with 77 where that cannot be had.
set -eu
dir=$1
version=1
[ "$(cat "$dir/version" 2>/dev/null || true)" != "$version" ] || exit 0
[ "$(id -u)" = 0 ] || { echo "not root" >&2; exit 77; }
rm -rf "$dir"
mkdir -p "$dir"
log=$dir/log
{
  debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates bookworm "$dir/root" \
    "$(sed -n 's/^URIs: *\([^ ]*debian\) *$/\1/p; s/^deb \(\[[^]]*\] \)\?\([^ ]*debian\) .*/\2/p' \
      /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)"
  # As this machine reaches its packages.
  for file in /etc/apt/apt.conf.d/*; do
    case $file in *docker* | */20packagekit) ;; *) cp "$file" "$dir/root/etc/apt/apt.conf.d/" ;; esac
  done
  cp /etc/resolv.conf "$dir/root/etc/resolv.conf"
  # Not by debootstrap, which does not know packages that others stand for.
  DEBIAN_FRONTEND=noninteractive chroot "$dir/root" apt-get install -y -q --no-install-recommends nix-bin
} >"$log" 2>&1 </dev/null || { tail -n 20 "$log" >&2; exit 77; }
echo "$version" >"$dir/version"
