# NixOS module of a host: a service that runs `fleet agent run` (or a timer that runs `fleet agent once`), and the
# settings that `fleet build` reads when it evaluates the host. Enrol once: `sudo fleet agent enroll FILE`; before that the service is passed
# over. Settings travel in the signed manifest; nothing of them is written on the host.
# Not tried on a NixOS system yet: see flake.nix.
self:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.fleet.agent;
  inherit (lib) mkEnableOption mkIf mkOption types;
  json = (pkgs.formats.json { }).type;
in
{
  options.services.fleet.agent = {
    enable = mkEnableOption "the fleet agent";
    package = mkOption {
      type = types.package;
      default = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = "the package of this flake";
      description = "The fleet to run.";
    };
    stateDir = mkOption {
      type = types.path;
      default = "/var/lib/fleet-agent";
      description = "Directory of the host's key, its token and what it trusts.";
    };
    rootFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      description = "The fleet's newest N.root.json: what fleet agent reset-trust begins again from.";
    };
    localGroup = mkOption {
      type = types.nullOr types.str;
      default = "fleet-local";
      description = ''
        Whose members may put updates off, have them applied, go back and ask the admin for something (docs/LOCAL.md). The
        group is made, without members; null: root alone. Only the continuous agent has a control socket.
      '';
    };
    notify = mkOption {
      type = types.bool;
      default = false;
      description = "Whether members of localGroup are shown what is coming in their graphical sessions, to choose when.";
    };
    continuous = mkOption {
      type = types.bool;
      default = true;
      description = "Whether the agent is there all day and hears of news at once; else a timer starts it.";
    };
    interval = mkOption {
      type = types.str;
      default = "15min";
      description = "Of the timer: time between two questions to the server (systemd.time(7)).";
    };
    settings = mkOption {
      default = { };
      description = "How this host is to be updated. What is left out has fleet's defaults; fleet build checks it.";
      example = {
        tags = [ "kiosk" ];
        activation.mode = "boot";
      };
      type = types.submodule {
        freeformType = json;
        options.tags = mkOption {
          type = types.listOf types.str;
          default = [ ];
          description = "Words to select hosts by.";
        };
        options.activation = mkOption {
          default = { };
          description = ''
            When an update may begin: windows ("Mon..Fri 22:00-05:00 Europe/Berlin"), ask, deferral, waitWhile (batteryBelow,
            metered, inhibitors, sessions), reboot. What a new system has to prove before it is kept, and what happens if it
            does not: confirmSeconds, onFailure, serverLost, health (units, commands, http, tcp). And mode, drift,
            keepGenerations (docs/CONFIG.md).
          '';
          type = types.submodule { freeformType = json; };
        };
      };
    };
  };

  config = mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc = mkIf (cfg.rootFile != null) { "fleet/root.json".source = cfg.rootFile; };
    users.groups = mkIf (cfg.localGroup != null) { ${cfg.localGroup} = { }; };
    systemd.tmpfiles.rules = [ "d ${cfg.stateDir} 0700 root root -" ];

    systemd.services.fleet-agent = {
      description = "fleet agent: ask for this host's system, fetch it, switch to it";
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      # It may be this very service that switches: the switch must neither stop nor restart it.
      restartIfChanged = false;
      stopIfChanged = false;
      unitConfig = {
        X-StopOnRemoval = false;
        ConditionPathExists = "${cfg.stateDir}/agent.json";
      };
      # nix-store and nix-env that fit this host's store; flock, unshare and mount; timeout.
      path = [
        config.nix.package
        config.systemd.package
        pkgs.util-linux
        pkgs.coreutils
        pkgs.getent
      ];
      # Services do not get it by themselves.
      environment = config.networking.proxy.envVars or { };
      wantedBy = lib.optional cfg.continuous "multi-user.target";
      serviceConfig = {
        # Never oneshot: a switch that starts a target which wants this service would wait for the very run that waits for it.
        Type = if cfg.continuous then "notify" else "exec";
        ExecStart = lib.escapeShellArgs (
          [
            "${cfg.package}/bin/fleet"
            "agent"
            (if cfg.continuous then "run" else "once")
            "--state"
            cfg.stateDir
            # An update that brings another unit is confirmed by the agent of that one, which is started once this one ended.
            "--unit"
            "/etc/systemd/system/fleet-agent.service"
          ]
          ++ lib.optionals (cfg.continuous && cfg.localGroup != null) [
            "--group"
            cfg.localGroup
          ]
        );
        # A stop in mid-switch ends the agent; the switch goes on, and the next run learns how it ended.
        KillMode = "process";
      }
      // lib.optionalAttrs cfg.continuous {
        # For the control socket; its group is the socket's alone.
        RuntimeDirectory = "fleet-agent";
        RuntimeDirectoryMode = "0755";
        # systemd-notify(1) speaks for the agent.
        NotifyAccess = "all";
        WatchdogSec = "5min";
        Restart = "always";
        RestartSec = "10s";
      }
      // {
        # It replaces the system, boot loader included, so there is little that it can do without.
        LockPersonality = true;
        RestrictRealtime = true;
        SystemCallArchitectures = "native";
        Nice = 10;
        IOSchedulingClass = "idle";
      };
    };

    # For whoever of the group sits at a graphical session; others, and sessions without one, are left alone.
    systemd.user.services.fleet-notify = mkIf (cfg.continuous && cfg.localGroup != null && cfg.notify) {
      description = "fleet: news of this machine's updates";
      partOf = [ "graphical-session.target" ];
      wantedBy = [ "graphical-session.target" ];
      path = [ pkgs.libnotify ];
      unitConfig.ConditionGroup = cfg.localGroup;
      serviceConfig = {
        ExecStart = "${cfg.package}/bin/fleet agent notify";
        Restart = "on-failure";
        RestartSec = "5min";
      };
    };

    # Enrolling starts it.
    systemd.paths.fleet-agent = mkIf cfg.continuous {
      description = "fleet agent, once it is enrolled";
      wantedBy = [ "multi-user.target" ];
      pathConfig.PathChanged = "${cfg.stateDir}/agent.json";
    };

    systemd.timers.fleet-agent = mkIf (!cfg.continuous) {
      description = "fleet agent, from time to time";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnBootSec = "2min";
        OnUnitInactiveSec = cfg.interval;
        # A fleet that was switched on together does not ask together.
        RandomizedDelaySec = "2min";
      };
    };
  };
}
