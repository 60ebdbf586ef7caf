# Many small paths: `shelves` texts that name `perShelf` documents each, so that a closure gets large and
# three levels deep. A document's first line is its edition, the rest never changes: a new edition
# changes every document by one line. The rest is digits that compress to about half.
{ release }:
{
  shelves ? 0,
  perShelf ? 0,
  lines ? 0,
  edition ? "",
}:
let
  range = count: from: builtins.genList (i: from i) count;
  document =
    shelf: number:
    builtins.toFile "document-${toString shelf}-${toString number}.txt" (
      "Edition: ${edition}"
      + builtins.concatStringsSep "\n" (
        range lines (i: builtins.hashString "sha256" "${toString shelf} ${toString number} ${toString i}")
      )
    );
in
range shelves (
  shelf:
  builtins.toFile "shelf-${toString shelf}.txt" ''
    Release: ${release}
    ${builtins.concatStringsSep "\n" (range perShelf (document shelf))}
  ''
)
