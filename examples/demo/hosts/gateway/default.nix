# A router. It declares no settings: fleet's defaults hold.
{
  packages = [
    "tools"
    "router"
  ];
}
