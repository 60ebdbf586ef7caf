# A small kiosk behind a bad line.
{
  packages = [
    "tools"
    "kiosk"
  ];
  settings = {
    tags = [ "kiosk" ];
    activation.confirmSeconds = 60;
  };
}
