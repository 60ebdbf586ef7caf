#!/bin/sh
# Makes sure that a Nix is there: the tests and the demo build with the real one.
# Installs Debian's nix-bin where it may (root and apt-get), and says so; else names the command.
set -eu
command -v nix-store >/dev/null 2>&1 && command -v nix >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "fleet: no Nix here; installing Debian's nix-bin with apt-get" >&2
  log=$(mktemp)
  if { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends nix-bin; } >"$log" 2>&1 </dev/null; then
    rm -f "$log"
    exit 0
  fi
  cat "$log" >&2
  rm -f "$log"
  echo "fleet: could not install nix-bin; install Nix by hand and run this again" >&2
  exit 1
fi
echo "fleet: Nix is needed and not installed." >&2
echo "Run: sudo apt-get install nix-bin      (or see https://nixos.org/download)" >&2
exit 1
