"""What the programs of real clients share: named checks that are told as one JSON object, {"passed": [names], "failed":
{name: what was wrong}}. A check that fails does not keep the next ones from running."""

import json
import os
import traceback

passed, failed = [], {}

# The address that a test gives is the one that is asked, whatever stands between this machine and the world.
for variable in ["http_proxy", "https_proxy", "all_proxy"]:
    for name in [variable, variable.upper()]:
        os.environ.pop(name, None)


def told(name, error):
    if error is None:
        passed.append(name)
    else:
        failed[name] = "".join(traceback.format_exception(error))[-2_000:]


def check(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        told(function.__name__, error)
    else:
        told(function.__name__, None)


async def check_async(function, *arguments):
    try:
        await function(*arguments)
    except Exception as error:
        told(function.__name__, error)
    else:
        told(function.__name__, None)


def equal(seen, wanted, what=""):
    if seen != wanted:
        raise AssertionError(f"{what}: {str(seen)[:300]!r} instead of {str(wanted)[:300]!r}")


def finish():
    print(json.dumps({"passed": passed, "failed": failed}))
