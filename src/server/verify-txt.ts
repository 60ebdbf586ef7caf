// VERIFY.txt of a log's bundle: how to check it with programs that others wrote. A test runs its indented lines as they
// stand there.

export const VERIFY_TXT = String.raw`This bundle holds a whole transparency log of a fleet, and what belongs to it.

  root/N.root.json       the fleet's roots. Trust none of them for being here: take 1.root.json from elsewhere
  batch/N.txt            the digests that the approval at entry N of the log is about
  closure/SHA256.fp      closures that manifests name (where they were asked for)
  log/checkpoint         the log's signed checkpoint (C2SP tlog-checkpoint)
  log/tile/entries/...   its entries, 256 in each (C2SP tlog-tiles)
  receipts/HOST/N.jsonl  what the host reported, one signed envelope a line, 256 in each
  conflicts/HOST.jsonl   what its key signed besides, and contradicts that (where there is any)

Indented lines are commands for sh. BUNDLE is this bundle; ROOT is the fleet's first root, 1.root.json, as it came to
you: whole paths, both. All of it at once:

    fleet audit --bundle "$BUNDLE" --root "$ROOT"

By hand, with openssl and what every Unix has. An envelope (DSSE) is one line of JSON; what is signed is the type and the
bytes of its payload, each behind its length:

    tar -xf "$BUNDLE"
    field() { sed 's/.*"'"$1"'":"\([^"]*\)".*/\1/' "$2"; }
    payload() { field payload "$1" | base64 -d; }
    pae() { t=$(field payloadType "$1"); printf 'DSSEv1 %d %s %d ' "$(printf %s "$t" | wc -c)" "$t" "$(payload "$1" | wc -c)"; payload "$1"; }
    pem() { { printf '\060\052\060\005\006\003\053\145\160\003\041\000'; printf %s "$1" | base64 -d; } | openssl pkey -pubin -inform DER; }
    firstkey() { payload "$ROOT" | sed 's/.*"'"$1"'":{"keys":\["\([^"]*\)".*/\1/'; }

The root, by the first of its root keys. Each later one is checked like that, by the keys of the one before it and its own:

    pem "$(firstkey root)" > root.pem
    pae "$ROOT" > signed
    field sig "$ROOT" | base64 -d > signature
    openssl pkeyutl -verify -rawin -pubin -inkey root.pem -in signed -sigfile signature

An entry of the log, here the third, by the director (of the root in force where it stands; an approval is signed by release
keys, and a snapshot by nobody). Entries lie behind their lengths, 2 bytes each:

    length() { od -An -tu1 -j "$2" -N 2 "$1" | awk '{ print $1 * 256 + $2 }'; }
    entry() { at=0; i=0; while [ $i -lt "$2" ]; do at=$((at + 2 + $(length "$1" $at))); i=$((i + 1)); done; tail -c +$((at + 3)) "$1" | head -c "$(length "$1" $at)"; }
    entry "$(find log/tile/entries -path '*/000' -type f -o -path '*/000.p/*' -type f | head -n 1)" 2 > entry.json
    pem "$(firstkey director)" > director.pem
    pae entry.json > signed
    field sig entry.json | base64 -d > signature
    openssl pkeyutl -verify -rawin -pubin -inkey director.pem -in signed -sigfile signature

The checkpoint (a signed note), by the log's key, which the newest root names:

    payload "$(ls -v root/*.root.json | tail -n 1)" | sed 's/.*"vkey":"[^+]*+[^+]*+\([^"]*\)".*/\1/' | base64 -d | tail -c 32 | base64 > log.key
    pem "$(cat log.key)" > log.pem
    sed '/^$/,$d' log/checkpoint > signed
    sed -n "s|^— $(head -n 1 log/checkpoint) ||p" log/checkpoint | base64 -d | tail -c 64 > signature
    openssl pkeyutl -verify -rawin -pubin -inkey log.pem -in signed -sigfile signature

Closures: the hash that a manifest names is the file's, and each of its lines is what Nix signs of a store path:

    find closure -type f 2> find.log | while read -r file; do echo "$(basename "$file" .fp)  $file" | sha256sum -c -; done

The tree over the entries: any program for C2SP tlog-tiles reads log/ as it reads a log's address, and the server's /tlog/ too.
`;
