"""One line is left of any mistake."""

import pytest

from segbench.errors import one_line_errors, readable

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
    ("cause", "told"),
    [
        ("Expected a typing.Literal[2, 4]. Got value: 3", "decoder block_size: choose one of 2, 4; got 3"),
        ("Expected a <class 'list'>", "decoder block_size: give a list"),
    ],
)
def test_an_option_of_a_part_is_a_key_too_and_its_type_is_told_in_words(cause, told):
    text = f"""Parser key "decoder":
  Type collections.abc.Callable[[X, int], Y] expects a function or a callable class: Parser key "block_size":
    {cause}. Got value: Namespace(class_path='Z')"""
    assert readable(ValueError(text)) == told


def test_worker_tracebacks_are_reduced_to_their_message():
    text = 'Caught ValueError in DataLoader worker process 0.\nTraceback:\n  File "x"\nValueError: a.png: bad'
    assert readable(ValueError(text)) == "a.png: bad"


def test_files_are_named():
    assert readable(PermissionError(13, "Permission denied", "runs/a")) == "Permission denied: runs/a"


def test_the_wrapper_of_a_link_is_dropped_though_it_spans_lines():
    text = (
        "Call to compute_fn of link 'f(data) --> model.x' with args ({a: None}\n{b: None}) failed: no folder x"
    )
    assert readable(ValueError(text)) == "no folder x"


def test_plain_messages_pass():
    assert readable(ValueError("one\n  two")) == "one; two"
    assert readable(ValueError()) == "ValueError"


def test_exit_status_and_traceback_on_request(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise ValueError("what is wrong")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("segbench: error: what is wrong [")
    monkeypatch.setenv("SEGBENCH_TRACEBACK", "1")
    with pytest.raises(ValueError, match="what is wrong"), one_line_errors():
        raise ValueError("what is wrong")


def test_faults_of_ours_are_not_hidden():
    with pytest.raises(TypeError), one_line_errors():
        raise TypeError("a fault")
