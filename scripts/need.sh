#!/bin/sh
# need.sh PROGRAM=PACKAGE…: makes sure that programs are there which npm does not bring, such as Nix for the
# tests. Installs their Debian packages where it may (root and apt-get), and says so; else names the command.
set -eu
missing=
for pair in "$@"; do
  command -v "${pair%%=*}" >/dev/null 2>&1 || missing="$missing ${pair#*=}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "fleet: installing Debian's$missing with apt-get" >&2
  log=$(mktemp)
  # shellcheck disable=SC2086 # package names, one word each
  if { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
    rm -f "$log"
    exit 0
  fi
  cat "$log" >&2
  rm -f "$log"
  echo "fleet: could not install$missing; install by hand and run this again" >&2
  exit 1
fi
echo "fleet: needed and not installed:$missing" >&2
echo "Run: sudo apt-get install$missing      (for Nix, see also https://nixos.org/download)" >&2
exit 1
