"""The first thing that runs on a rig: it unpacks the rest, unless that is there, and starts it.

It is sent as text and run by whatever Python the rig has, so it keeps to the syntax of old ones:
one that is too old is to say so, and not to fail on a line that it cannot read.
"""

import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile

HELLO = "slipway-rig"
OLDEST = (3, 10)


def begin():
    # type: () -> None
    """Answer with a line of JSON whether the code is wanted; read it, and go on as it says."""
    asked = json.loads(sys.stdin.buffer.readline().decode())
    if sys.version_info < OLDEST:
        _say({"refused": "python", "python": list(sys.version_info[:3]), "path": sys.executable})
        return
    home = os.path.abspath(os.path.expanduser(asked["folder"]))
    code = os.path.join(home, "code", asked["sha256"])
    have = os.path.isdir(code)
    free = None
    try:
        os.makedirs(os.path.dirname(code), exist_ok=True)
        free = shutil.disk_usage(home).free
    except OSError as error:
        _say({"refused": "folder", "folder": home, "why": str(error)})
        return
    _say({"have": have, "free_bytes": free, "folder": home})
    if not have:
        content = sys.stdin.buffer.read(asked["length"])
        if hashlib.sha256(content).hexdigest() != asked["sha256"]:
            _say({"refused": "code", "why": "it was changed on its way"})
            return
        try:
            _unpack(content, code)
        except OSError as error:
            _say({"refused": "folder", "folder": home, "why": str(error)})
            return
    sys.path[:] = [code] + [entry for entry in sys.path if entry]
    from agent.rig.serve import serve

    serve(home)


def _unpack(content, code):
    # type: (bytes, str) -> None
    beside = tempfile.mkdtemp(dir=os.path.dirname(code))
    try:
        zipfile.ZipFile(io.BytesIO(content)).extractall(beside)
        os.rename(beside, code)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        if not os.path.isdir(code):  # two clients at once: the first one's is as good
            raise


def _say(told):
    # type: (dict[str, object]) -> None
    told[HELLO] = 1
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
