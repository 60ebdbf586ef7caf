# The system that all hosts of the demo have. It must be the one that builds them (builtin:buildenv runs
# nothing, but Nix checks): "x86_64-linux" or "aarch64-linux". Pure evaluation cannot ask the machine.
"x86_64-linux"
