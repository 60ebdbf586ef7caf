# NixOS module of the build box: `fleet serve` as a service of its own user. The state is made once, by
# hand and never by the service: `sudo fleet init --state DIR`, then `systemctl start fleet-server`.
# `fleet build`, run by root, acts as the owner of the state.
# Not tried on a NixOS system yet: see flake.nix.
self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.fleet.server;
  inherit (lib) mkEnableOption mkIf mkOption types;
in
{
  options.services.fleet.server = {
    enable = mkEnableOption "the fleet server";
    package = mkOption {
      type = types.package;
      default = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = "the package of this flake";
      description = "The fleet to run.";
    };
    stateDir = mkOption {
      type = types.path;
      default = "/var/lib/fleet";
      description = "Directory of keys, database, blobs and log.";
    };
    host = mkOption {
      type = types.str;
      default = "127.0.0.1";
      description = "Address to listen on.";
    };
    port = mkOption {
      type = types.port;
      default = 8080;
      description = "Port to listen on.";
    };
    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to let others reach the port.";
    };
  };

  config = mkIf cfg.enable {
    users.users.fleet = {
      isSystemUser = true;
      group = "fleet";
      home = cfg.stateDir;
    };
    users.groups.fleet = { };
    systemd.tmpfiles.rules = [ "d ${cfg.stateDir} 0750 fleet fleet -" ];
    environment.systemPackages = [ cfg.package ];
    networking.firewall.allowedTCPPorts = mkIf cfg.openFirewall [ cfg.port ];

    systemd.services.fleet-server = {
      description = "fleet server";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      # A state that has gone is an error to be seen, not a reason to start afresh or to keep silent.
      unitConfig.AssertPathExists = "${cfg.stateDir}/fleet.json";
      serviceConfig = {
        ExecStart = lib.escapeShellArgs [
          "${cfg.package}/bin/fleet"
          "serve"
          "--state"
          cfg.stateDir
          "--listen"
          "${cfg.host}:${toString cfg.port}"
        ];
        User = "fleet";
        Group = "fleet";
        Restart = "on-failure";
        RestartSec = 5;
        UMask = "0027";

        ProtectSystem = "strict";
        ReadWritePaths = [ cfg.stateDir ];
        ProtectHome = true;
        PrivateTmp = true;
        PrivateDevices = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        NoNewPrivileges = true;
        CapabilityBoundingSet = [ "" ];
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        LockPersonality = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service"
          "~@privileged"
        ];
        # Not MemoryDenyWriteExecute: V8 compiles while it runs.
      };
    };
  };
}
