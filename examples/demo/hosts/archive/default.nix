# A large host: about 200 paths.
{
  packages = [
    "tools"
    "library"
  ];
  documents = {
    shelves = 10;
    perShelf = 17;
    lines = 240;
    edition = builtins.readFile ./edition;
  };
  settings.tags = [
    "server"
    "large"
  ];
}
