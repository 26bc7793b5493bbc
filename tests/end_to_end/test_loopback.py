"""An embedded Ray can only be reached from its own machine."""

import contextlib
import ipaddress
import os
import struct
from pathlib import Path

from capfilt.cluster.nodes import driver_address

LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp."""


def listening_sockets():
    """{inode: address} of all listening TCP sockets of this machine."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN:
                words = bytes.fromhex(fields[1].partition(":")[0])
                packed = b"".join(
                    struct.pack(">I", *struct.unpack("=I", words[i : i + 4])) for i in range(0, len(words), 4)
                )
                found[fields[9]] = ipaddress.ip_address(packed)
    return found


def descendants(pid):
    """{pid: name} of a process and all that it has started."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it has just ended
                continue
            name, _, rest = stat.partition("(")[2].rpartition(")")
            parents[int(entry.name)], names[int(entry.name)] = int(rest.split()[1]), name
    found = {pid}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return {each: names[each] for each in found if each in names}


def listeners(pid):
    """(name, address) of the listening sockets of a process and all that it has started."""
    sockets, found = listening_sockets(), []
    for each, name in descendants(pid).items():
        for link in open_files(each):
            inode = link.removeprefix("socket:[").removesuffix("]")
            if inode in sockets:
                found.append((name, sockets[inode]))
    return found


def open_files(pid):
    """What the file descriptors of a process refer to."""
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):  # it has just been closed
            yield os.readlink(entry)


def is_loopback(address):
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_every_port_of_an_embedded_ray_is_bound_to_the_loopback_address(ray_session):
    import ray

    @ray.remote
    class Actor:
        def ready(self):
            return os.getpid()

    actor = Actor.remote()
    worker = ray.get(actor.ready.remote())  # a worker process has opened its port
    found = listeners(os.getpid())
    assert {"gcs_server", "raylet"} <= {name for name, _ in found}
    assert listeners(worker) and set(listeners(worker)) <= set(found)
    assert [(name, str(address)) for name, address in found if not is_loopback(address)] == []
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    assert driver_address() == "127.0.0.1"  # where the driver serves folders


def test_the_test_sees_a_port_that_is_open_to_all():
    import socket

    with socket.create_server(("0.0.0.0", 0)):
        assert [str(a) for _, a in listeners(os.getpid()) if not is_loopback(a)] == ["0.0.0.0"]
    with socket.create_server(("127.0.0.1", 0)):
        assert all(is_loopback(address) for _, address in listeners(os.getpid()))
