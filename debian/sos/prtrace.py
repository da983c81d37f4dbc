# Copyright (C) the prtrace authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""What prtrace's agent knows, for `sos report`.

The plugin asks the agent, over its socket, and no disk.  sos' own plugin scsi asks every path of
every disk by sg_persist, and so takes unit attentions that guests were to see, for example that of
their fencing.  Where an agent runs it has the same answers, so that plugin can be left out:

    sos report -n scsi
"""

from sos.report.plugins import DebianPlugin, Plugin, RedHatPlugin, UbuntuPlugin

# Not "since": sos has a global option of that name, which hides a plugin's.
_REACH = "how far back the recording goes: 3d, 12h, or a time"
_ANONYMISE = "replace guests, keys, ports and hosts; alike for the same word"

try:
    from sos.report.plugins import PluginOpt
except ImportError:  # sos 4.0, which Debian 12 has
    _OPTIONS = [("reach", _REACH, "fast", "3d"), ("anonymise", _ANONYMISE, "fast", "")]
else:
    _OPTIONS = [
        PluginOpt("reach", default="3d", val_type=str, desc=_REACH),
        PluginOpt("anonymise", default="", val_type=str, desc=_ANONYMISE),
    ]


class Prtrace(Plugin, RedHatPlugin, DebianPlugin, UbuntuPlugin):
    short_desc = "SCSI persistent reservations, as prtrace saw them"
    plugin_name = "prtrace"
    profiles = ("storage", "cluster", "virt")
    packages = ("prtrace",)
    commands = ("prtrace",)
    option_list = _OPTIONS

    def setup(self) -> None:
        reach = self.get_option("reach")
        secret = self.get_option("anonymise")
        recording = f"prtrace record --since '{reach}'"
        if secret:
            # What the others print has the names in it.
            self.add_cmd_output(
                f"{recording} --anonymise '{secret}'", suggest_filename="recording.jsonl"
            )
            return
        self.add_cmd_output(recording, suggest_filename="recording.jsonl")
        self.add_cmd_output(
            [
                "prtrace show --json",
                "prtrace status --json",
                "prtrace doctor --json",
                "prtrace moves --json",
                "prtrace ports --json",
            ]
        )
        self.add_copy_spec(["/etc/prtrace/", "/etc/default/prtrace-agent"])
        self.add_journal(units=["prtrace-agent", "prtrace-proxy"])
