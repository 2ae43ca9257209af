"""User errors and failures of the machine become one line."""

import errno
import os
import signal
import subprocess
import sys
import warnings

import cv2
import optuna
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image
from torch.utils.data import DataLoader

from segbench.utils import errors
from segbench.utils.errors import one_line, one_line_errors, one_line_warnings, readable

NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'segbench.tasks.base.Task'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'a.B':
        Parser key "decoder":
          Type collections.abc.Callable[[X, int], Y] expects a function or a callable class: Expected 'Z' \
to be a subclass of <class 'Y'>. Got value: Namespace(class_path='Z')
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='decoder', val='Z')"""


def test_nested_messages_are_reduced_to_keys_and_cause():
    assert readable(ValueError(NESTED)) == "model (a.B) decoder: Expected 'Z' to be a subclass of <class 'Y'>"


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        ("Expected a typing.Literal[2, 4]. Got value: 3", "decoder block_size: choose one of 2, 4; got 3"),
        ("Expected a <class 'list'>", "decoder block_size: give a list"),
    ],
)
def test_option_of_a_component_is_reported_with_its_accepted_values(cause, expected):
    text = f"""Parser key "decoder":
  Type collections.abc.Callable[[X, int], Y] expects a function or a callable class: Parser key "block_size":
    {cause}. Got value: Namespace(class_path='Z')"""
    assert readable(ValueError(text)) == expected


def test_worker_tracebacks_are_reduced_to_their_message():
    text = 'Caught ValueError in DataLoader worker process 0.\nTraceback:\n  File "x"\nValueError: a.png: bad'
    assert readable(ValueError(text)) == "a.png: bad"


def test_os_errors_have_their_path():
    assert readable(PermissionError(13, "Permission denied", "runs/a")) == "Permission denied: runs/a"


def test_wrapper_of_linked_arguments_is_dropped():
    text = (
        "Call to compute_fn of link 'f(data) --> model.x' with args ({a: None}\n{b: None}) failed: no folder x"
    )
    assert readable(ValueError(text)) == "no folder x"


def test_plain_messages_are_joined():
    assert readable(ValueError("one\n  two")) == "one; two"
    assert readable(ValueError()) == "ValueError"


def test_error_exits_with_status_2_or_traceback_on_request(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise ValueError("what is wrong")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("segbench: error: what is wrong [")
    monkeypatch.setenv("SEGBENCH_TRACEBACK", "1")
    with pytest.raises(ValueError, match="what is wrong"), one_line_errors():
        raise ValueError("what is wrong")


def test_bugs_propagate():
    with pytest.raises(TypeError), one_line_errors():
        raise TypeError("a bug")


def too_large():
    try:
        torch.empty(1 << 60)
    except RuntimeError as error:
        return error


def in_worker(error):
    """Wraps an error as torch re-raises it in the main process."""
    name = type(error).__name__
    return type(error)(f"Caught {name} in DataLoader worker process 0.\nTraceback:\n  x\n{name}: {error}")


KILLED = "DataLoader worker (pid(s) 12) exited unexpectedly"
BUS = (
    "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are "
    "out of shared memory. Please try to raise your shared memory limit."
)
FAILURES = {
    "device in training": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
        "fit",
        ["device is out of memory (20.00 GiB requested)", "--data.init_args.batch_size", "bf16-mixed"],
    ),
    "device, from a library": (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "segment", ["--window"]),
    "host": (too_large(), "test", ["machine is out of memory", "--model.init_args.windows_per_batch"]),
    "host in Python": (MemoryError(), "segment", ["machine is out of memory", "--batch_size"]),
    "host in a worker": (
        in_worker(MemoryError("Unable to allocate 4.00 TiB for an array")),
        "fit",
        ["machine is out of memory", "num_workers"],
    ),
    "host, with a message of segbench": (
        in_worker(MemoryError("a.png does not fit: split it")),
        "fit",
        ["a.png does not"],
    ),
    "host in OpenCV": (
        cv2.error("OpenCV: error: (-4:Insufficient memory) Failed"),
        "doctor",
        ["--num_workers"],
    ),
    "fork": (
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        "tune-regions",
        ["machine is out of", "--workers"],
    ),
    "killed worker": (
        RuntimeError(KILLED),
        "fit",
        ["a loader worker was killed", "--data.init_args.num_workers"],
    ),
    "shared memory": (RuntimeError(BUS), "fit", ["shared memory", "--shm-size"]),
    "shared memory file": (
        RuntimeError("unable to write to file </torch_12_34_0>: No space left on device (28)"),
        "validate",
        ["shared memory", "--shm-size"],
    ),
    "files": (OSError(errno.EMFILE, "Too many open files", "a.png"), "fit", ["too many files", "ulimit -n"]),
    "threads": (RuntimeError("can't start new thread"), "fit", ["ulimit -u"]),
    "lost process": (RuntimeError("[gloo/x.cc:1] Connection closed by peer"), "fit", ["--resume RUN"]),
    "disk": (
        OSError(errno.ENOSPC, "No space left on device", "a/b.ckpt"),
        "fit",
        ["a/b.ckpt; free", "--runs_dir"],
    ),
    "quota": (
        OSError(errno.EDQUOT, "Disk quota exceeded", "a"),
        "segment",
        ["Disk quota exceeded: a", "--out"],
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_exhausted_resource_is_one_line_with_its_remedy(name):
    error, verb, expected = FAILURES[name]
    error.add_note("`segbench fit --resume RUN` resumes from step 3")
    line = one_line(error, verb)
    assert "\n" not in line
    assert line.endswith("; `segbench fit --resume RUN` resumes from step 3")
    for words in expected:
        assert words in line


def test_full_cache_folder_suggests_its_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path))
    line = one_line(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "features-1" / "a")), "fit")
    assert "SEGBENCH_CACHE" in line


@pytest.mark.parametrize(
    "error",
    [
        MisconfigurationException("choose devices"),
        optuna.exceptions.StorageInternalError("no database"),
        Image.DecompressionBombError("too many pixels"),
        cv2.error("no codec"),
    ],
)
def test_user_errors_of_libraries_are_one_line(error):
    assert one_line(error) == str(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes cannot be multiplied"), KeyError("x"), AssertionError()]
)
def test_bugs_keep_their_traceback(error):
    assert one_line(error, "fit") is None


class WorkerKiller:
    """A dataset whose second item kills its worker."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_killed_worker_is_recognised_from_the_message_of_this_torch():
    with pytest.raises(RuntimeError) as raised:
        list(DataLoader(WorkerKiller(), num_workers=1))
    assert "a loader worker was killed" in one_line(raised.value, "fit")


@pytest.mark.parametrize("command", [["doctor", "--config"], ["fit"], ["segment"]])
def test_ctrl_c_during_imports_is_one_line(command, tmp_path):
    """A module sends the signal while it is imported, in place of torch."""
    (tmp_path / "torch.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport nothing\n"
    )
    (tmp_path / "config.yaml").write_text("data: {}\n")
    command = [*command, "config.yaml"] if command[-1] == "--config" else [*command, "--checkpoint", "x"]
    ended = subprocess.run(
        [sys.executable, "-m", "segbench", *command, "a.png", "--out", "x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert ended.returncode == 130
    assert ended.stderr == "\nsegbench: stopped\n"


def test_warnings_are_one_line_without_control_characters():
    with one_line_warnings():
        ours = warnings.formatwarning("two\nlines and \x1b[31mred", UserWarning, errors.__file__, 7)
        other = warnings.formatwarning("not ours", UserWarning, "/elsewhere/file.py", 7)
    assert ours == "segbench: warning: two lines and \\x1b[31mred\n"
    assert other == "/elsewhere/file.py:7: UserWarning: not ours\n"
