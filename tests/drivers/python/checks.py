"""What every program here does: runs its checks in order and says which passed."""

CHECKS = []


def check(function):
    """Marks a check; its docstring is the claim."""
    CHECKS.append(function)
    return function


def run():
    for function in CHECKS:
        function()
        print("passed:", function.__doc__.strip().rstrip("."), flush=True)
    print("all passed")


def raises(kind, function, *args):
    """The error that the call raises; it has to be of this kind."""
    try:
        function(*args)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")
