# SPDX-License-Identifier: Apache-2.0
"""What the manual says of each verb beyond its options: `--help` and the man pages print it."""

from __future__ import annotations

DESCRIPTIONS = {
    "create": (
        "Checks the bundle, makes all that the container needs, and leaves it waiting for `start`. "
        "A bundle is a directory with config.json (the OCI runtime specification) and a root file "
        "system. Annotations, or urunc.json in the root file system, say which file is the "
        "unikernel, and of which framework; a bundle without them is handed to the ordinary "
        "runtime.",
    ),
    "start": (
        "Lets a created container's init execute the monitor, which boots the guest. Returns when "
        "the monitor runs; what the guest does then is on its console, the container's output.",
    ),
    "state": (
        "The object is the one of the OCI runtime specification, with the status creating, "
        "created, running, paused or stopped.",
    ),
    "kill": (
        "KILL ends the monitor. TERM, INT and the image's own stop signal ask the guest to stop, "
        "if it can be asked: an application in a Linux guest gets the signal itself, QEMU presses "
        "the power button. A guest that cannot be asked is ended with its monitor.",
    ),
    "delete": (
        "Removes what the container left on this machine: control groups, network devices, rules, "
        "mounts and its directory. A container that has not stopped is not deleted without "
        "--force.",
    ),
    "run": (
        "As create and start. In the foreground, the terminal or the standard streams are the "
        "guest's console, signals are passed on, and the exit code is the container's.",
    ),
    "list": ("Containers of the ordinary runtime below the same --root are listed, too.",),
    "ps": (
        "Shows the processes on the host: of a guest, its monitor and what is beside it. What runs "
        "within the guest is not visible from outside. Other options are passed to ps(1).",
    ),
    "exec": (
        "A unikernel has no processes to run a command in: for a guest this is refused, with exit "
        "code 255. For an ordinary container all words are handed to its runtime.",
    ),
    "pause": ("The guest's virtual CPUs stand still until `resume`; its memory stays.",),
    "resume": ("Lets the virtual CPUs of a paused guest run on.",),
    "update": (
        "The limits are those of the container's control groups. A guest's memory and number of "
        "CPUs are fixed when it boots: a limit above them has no effect inside, a memory limit "
        "that the guest does not fit into is refused.",
    ),
    "events": (
        "One JSON object a line, of the type stats at each interval, oom when a process was "
        "killed for want of memory, and at the end monitor and exit, which say why it ended.",
    ),
    "checkpoint": (
        "Saves a guest's memory, its machine's state and its disks into a directory, while it "
        "stands still. Then it goes on (--leave-running), or ends and is deleted. Firecracker and "
        "QEMU can do so. For an ordinary container all words are handed to its runtime.",
    ),
    "restore": (
        "Makes a container as create does, and its guest goes on from where `checkpoint` saved it. "
        "It is refused unless the machine, the monitor and its version, the kernel, the disks and "
        "the addresses are the same. Without --detach it waits for the end, as run does. For an "
        "ordinary bundle all words are handed to its runtime.",
    ),
    "features": (
        "The object is the one of the OCI runtime specification (features.md); engines read it. "
        "Its annotations say which guests and monitors there are.",
    ),
    "spec": (
        "The file is made for a guest if one of --type, --hypervisor, --binary and --mount-rootfs "
        "is given, else as runc's is.",
    ),
    "plan": (
        "Shows what `create` would decide, and why: guest, monitor, memory, network, the monitor's "
        "command line, the steps of its init, which verbs then take Python, and what of "
        "config.json has no effect. Needs no "
        "root, and makes nothing. The network is not known before the container is there: its "
        "place is marked, unless --id or --facts tells it.",
        "With --diff the same is done for a second bundle, and what differs is printed. With "
        "--shell a script is printed that runs the monitor by hand, without a container around "
        "it.",
    ),
    "config": (
        "The sources are the files of the configuration, its default, or the machine. The output "
        "is TOML, and can be used as a configuration file.",
    ),
    "timeline": (
        "Timestamps are recorded if URUNC_TIMESTAMPS=1 is in the environment of create or run. "
        "Without ID, the last container's are shown.",
    ),
    "cache": (
        "A guest that has no shared folder gets its root file system as an image. Images are kept, "
        "and shared by containers of the same layers. `prune` removes what no container uses.",
    ),
    "snapshot": (
        "Snapshots are what containers start from that ask for it (docs/warm-start.md); the first "
        "container of a kind makes it. `inspect` shows what is known of one, and with --verify "
        "reads it to the end; KEY may be cut short. `warm` starts a container of a bundle, waits "
        "until its snapshot is there, and deletes the container. `prune` removes what is not in "
        "use at the moment.",
    ),
    "image": (
        "`build` makes an OCI image of a unikernel from build files (TOML, or bunnyfiles), or from "
        "options alone; the words after -- are then the guest's command. Several files, or one "
        "with several platforms, make one image for all of them. The same input gives the same "
        "bytes; SOURCE_DATE_EPOCH sets its times. Needs no root and no daemon.",
        "`inspect` says what an image, an archive, a folder or a kernel is: framework and version, "
        "what it needs, which monitors of this machine run it, and what in it is odd. The exit "
        "code is 1 if no monitor here runs it.",
    ),
    "try": (
        "Finds out what it is given (a reference, which skopeo fetches, an OCI layout, an archive "
        "of an image, a folder with a root file system, or a kernel), unpacks it into a directory "
        "of its own, chooses guest and monitor, and runs it in the foreground. An image with "
        "neither a kernel nor annotations is run by Linux: by the kernel of the configuration, "
        "else by this machine's newest below /boot. What follows -- is its command.",
        "The guest gets a network behind NAT; without root by pasta, if it is installed. A port "
        "of -p leads to it from 127.0.0.1 and ::1, or from the address that is named (0.0.0.0 and "
        ":: are all); a client that comes before the guest has booted waits for it. Nothing stays "
        "when the guest ends, at Ctrl-C or at SIGTERM; a second one ends a guest that does not "
        "stop. The exit code is the guest's. While it runs, `urunc list` shows it.",
    ),
    "doctor": (
        "Each line is fine, a note (a limit that one can live with) or a problem, and says what to "
        "type or to set. KVM is not only opened: a guest of a few bytes is run, and network "
        "devices and rules are tried in a namespace that ends with the trial. Nothing is left, and "
        "no engine is called. The exit code is 1 if there is a problem. Ask as root what root's "
        "engines will meet.",
        "With a container's ID: what its monitor does, whether urunc's init has started the "
        "application, how many frames the guest has sent, what was left out when it was made, and "
        "what the last lines of its console mean, as far as they are known. The console is the "
        "file that it goes to, or the log of Docker, Podman or a kubelet's engine, or the file "
        "that is named.",
    ),
    "install": (
        "Adds urunc to the configuration of an engine: to Docker's daemon.json, to a drop-in of "
        "Podman's, containerd 2's or CRI-O's, to the file of containerd 1 that counts, to k3s's "
        "and RKE2's own drop-in or template. It prints what changes, keeps a copy of each file "
        "(.before-urunc), and asks the engine's own program what it makes of the new files before "
        "they are in place: the runtime `urunc` may be all that is different. Then the engine is "
        "restarted, or where that is enough has to read its files again (Docker); if it is not "
        "well afterwards, the old files are put back. From a wheel, urunc itself is copied to "
        "--prefix first. Once more is nothing to do.",
    ),
    "uninstall": (
        "Takes out what `urunc install` has put in, so that the files are what they were, and "
        "urunc itself where that command has copied it and no other engine knows it.",
    ),
    "metrics": (
        "Containers and the memory that they use, failures by kind, what starts took in all and by "
        "phase, and the cache, in the text format of Prometheus. It reads what urunc has written "
        "anyway: the records of containers, the log (`log.file`) and the timestamps of containers "
        "made with URUNC_TIMESTAMPS=1. Nothing has to run: a timer that writes into the directory "
        "of node_exporter's textfile collector will do. --listen is for machines without one.",
        "Containers are looked for below --root, and where containerd and Docker keep theirs.",
    ),
    "completion": (
        "The script is for bash, zsh or fish, and completes verbs, options, their values and the "
        "ids of containers. `make install` installs all three.",
    ),
}
"""Verb → paragraphs."""

EXAMPLES = {
    "create": (("a container of the bundle in this directory", "urunc create web"),),
    "run": (("the guest's console here, until it ends", "urunc run --bundle /srv/hello hello"),),
    "kill": (("ask the guest to stop", "urunc kill web TERM"), ("end it", "urunc kill web KILL")),
    "delete": (("whatever its status, or if there is none", "urunc delete --force web"),),
    "update": (("half of a CPU", "urunc update --cpu-period 100000 --cpu-quota 50000 web"),),
    "checkpoint": (
        ("save it, and let it go on", "urunc checkpoint --leave-running --image-path saved web"),
    ),
    "restore": (
        (
            "the bundle in this directory, from what was saved",
            "urunc restore --detach --image-path saved web",
        ),
    ),
    "install": (
        ("what would change for Docker", "urunc install --dry-run docker"),
        ("whether Podman knows urunc", "urunc install --check podman"),
    ),
    "doctor": (("why a guest does not answer", "urunc doctor web"),),
    "uninstall": (("out of Docker's configuration", "urunc uninstall docker"),),
    "spec": (
        ("a Unikraft kernel on Firecracker", "urunc spec --type unikraft --hypervisor firecracker"),
        ("any image's root file system as a Linux guest", "urunc spec --mount-rootfs"),
    ),
    "plan": (
        ("the bundle in this directory", "urunc plan"),
        ("what a change of config.json changes", "urunc plan --bundle old --diff new"),
        ("boot the kernel without a container", "urunc plan --shell | sh"),
    ),
    "cache": (
        ("what there is", "urunc cache list"),
        ("all that was not used for a day", "urunc cache prune --unused-for 24h"),
    ),
    "snapshot": (
        ("what there is", "urunc snapshot list"),
        ("have one made ahead", "urunc snapshot warm /run/bundles/web"),
        ("all that was not used for a day", "urunc snapshot prune --unused-for 24h"),
    ),
    "image": (
        (
            "an archive that Docker, Podman and ctr load",
            "urunc image build --output archive:hello.tar hello.toml",
        ),
        (
            "of a kernel alone, into Docker",
            "urunc image build --output docker --name a --kernel k -- /a",
        ),
        ("what it is, and what runs it here", "urunc image inspect hello.tar"),
    ),
    "try": (
        ("a kernel alone", "urunc try --guest unikraft ./kernel -- /app"),
        ("a server, at http://127.0.0.1:8080", "urunc try -p 8080:80 ./image.tar"),
        ("a shell in an ordinary image", "urunc try -it docker.io/library/alpine -- sh"),
    ),
    "metrics": (
        ("what there is now", "urunc metrics"),
        (
            "for node_exporter, from a timer",
            "urunc metrics --output /var/lib/prometheus/node-exporter/urunc.prom",
        ),
        ("for Prometheus itself", "urunc metrics --listen 127.0.0.1:9464"),
    ),
    "completion": (("in ~/.bashrc", 'eval "$(urunc completion bash)"'),),
}
"""Verb → (what it does, command line) of each."""

ENVIRONMENT = (
    ("URUNC_TIMESTAMPS", "1: record when each phase of a start is reached (create and run)."),
    (
        "URUNC_DOOR",
        "off: let Python carry out all verbs; else a compiled program does what create has "
        "prepared for start, state, kill and delete.",
    ),
    ("XDG_RUNTIME_DIR", "Where an ordinary user's containers are, in the directory urunc."),
)
FILES = (
    ("/etc/urunc/config.toml", "The administrator's configuration; `urunc config` prints it."),
    ("/etc/urunc/config.d/*.toml", "Parts of the configuration, read in the order of their names."),
    ("/run/urunc", "The containers: a directory for each, with its state in container.json."),
    ("/run/urunc.d", "What is remembered of monitors, and the user ids in use."),
)
EXIT_CODES = (
    ("0", "The verb did what it is for."),
    ("1", "It did not; one line on standard error, or in the file of --log, says why."),
    ("255", "exec of a guest: refused."),
    ("other", "run: the container's exit code, 128 + N if a signal N ended it."),
)
OVERVIEW = (
    "urunc is an OCI runtime. It starts a unikernel of an ordinary OCI image on a virtual machine "
    "monitor or a sandbox monitor (QEMU, Firecracker, Solo5), as runc starts a process. Container "
    "engines call it in place of runc: containerd (by its own shim), Docker, Podman, CRI-O. A "
    "container that is no unikernel is handed to an ordinary runtime.",
    "Each command reads the configuration and the container's directory below --root; no daemon "
    "runs. Options before the command can be given after it, too.",
)
