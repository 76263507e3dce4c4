"""Messages about functions that can't be loaded: they name what is wrong, and what the user can do."""

from __future__ import annotations

import io
import unicodedata
import zipfile

import pytest

from tests.runtime.client import Worker
from tests.runtime.conftest import MakeWorker
from tests.runtime.messages import FINE, failure, not_loaded

# Entries


def test_a_missing_module_is_named_beside_what_there_is(worker: Worker) -> None:
    files = {"main.py": FINE, "lib/tools.py": "", "__MACOSX/._main.py": "", ".DS_Store": ""}
    said = not_loaded(worker, files, "hello.main")
    there = "at its top level are: lib/, main.py."
    assert said == f"There is no module 'hello' (hello.py or hello/__init__.py) in the package; {there}"


def test_what_is_missing_is_in_the_log_without_a_traceback(worker: Worker) -> None:
    answer = failure(worker, FINE, entry="hello.main")
    assert answer.printed.startswith("There is no module 'hello'")
    assert "Traceback" not in answer.printed


def test_the_message_says_how_to_zip_a_package_of_one_folder(worker: Worker) -> None:
    files = {"hello/": "", "hello/main.py": FINE, "__MACOSX/hello/._main.py": ""}
    said = not_loaded(worker, files, "main.main")
    assert "at its top level are: hello/." in said
    advice = "All files are in the folder hello/, which has main.py: zip what is in the folder, not the folder itself."
    assert said.endswith(advice)


def test_the_message_says_that_a_package_was_zipped_with_its_path(worker: Worker) -> None:
    said = not_loaded(worker, {"home/ada/hello/main.py": FINE, "home/ada/hello/lib.py": ""}, "main.main")
    assert "All files are in the folder home/ada/hello/, which has main.py: zip what is in the folder" in said


def test_a_module_in_another_folder_is_found(worker: Worker) -> None:
    said = not_loaded(worker, {"README": "", "src/hello.py": FINE, "tests/x.py": ""}, "hello.main")
    assert said.endswith("at its top level are: README, src/, tests/. The folder src/ has hello.py.")


def test_a_missing_module_of_a_folder_shows_the_folder_too(worker: Worker) -> None:
    said = not_loaded(worker, {"pkg/__init__.py": "", "pkg/tools.py": "", "main.py": ""}, "pkg.mod.main")
    assert said.startswith("There is no module 'pkg.mod' (pkg/mod.py or pkg/mod/__init__.py) in the package; ")
    assert "in its folder pkg/ are: __init__.py, tools.py; at its top level are: main.py, pkg/." in said


@pytest.mark.parametrize(
    ("files", "entry", "said"),
    [
        ({"hello.py": FINE}, "hello.py.main", "The entry names the file hello.py instead of the module: write hello."),
        (
            {"main.py": "class H:\n    def run(self): pass\n"},
            "main.H.run",
            "'main' is a module, not a folder. The entry must be module.function; a method can't be one. The package"
            " has at its top level: main.py.",
        ),
        ({"hello/main.py": FINE}, "hello.main", "'hello.main' is a module, not a function: write the function's name"),
        ({"p/__init__.py": "from . import m", "p/m.py": FINE}, "p.m", "such as p.m.main."),
        ({"lib/a.py": "", "main.py": ""}, "lib.run", "'lib' is a folder without a file __init__.py"),
        ({"stat.py": FINE}, "stat.main", "rename stat.py."),
        (
            {"hello.py": FINE},
            "random.main",
            "'random' is a module of the standard library, and has no function 'main'; at the",
        ),
        ({"main.py": "main = 3"}, "main.main", "'main' in module 'main' is not a function; it is of type int."),
        ({"hello.py": FINE}, "main", "The entry must be module.function, such as main.main, not 'main'."),
    ],
    ids=[
        "file",
        "method",
        "module",
        "imported module",
        "folder",
        "shadowed",
        "Python's own",
        "no function",
        "one word",
    ],
)
def test_other_entries_that_name_nothing_say_what_they_name(
    worker: Worker, files: dict[str, str | bytes], entry: str, said: str
) -> None:
    assert said in not_loaded(worker, files, entry)


@pytest.mark.parametrize(("file", "entry"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_the_message_says_that_unicode_composes_a_name_differently(worker: Worker, file: str, entry: str) -> None:
    name = unicodedata.normalize(entry, "größe")
    said = not_loaded(worker, {unicodedata.normalize(file, "größe.py"): FINE}, f"{name}.main")
    assert "looks like the entry's" in said
    assert f"the package's name is in Unicode's {file}, the entry's in {entry}. Write both in the same form" in said


def test_an_archive_of_a_stream_says_what_to_zip(worker: Worker) -> None:
    said = not_loaded(worker, {"-": FINE}, "main.main")
    assert said.endswith("Zip the file itself: zip out.zip main.py.")


def test_a_missing_function_is_named_beside_those_that_the_module_has(worker: Worker) -> None:
    code = "from os.path import join\ndef hello(): pass\nclass Main: pass\ndef _start(): pass\n"
    said = not_loaded(worker, code, "main.main")
    assert said == "Module 'main' has no function 'main'; its functions are: _start, hello."


def test_a_module_without_functions_says_so(worker: Worker) -> None:
    said = not_loaded(worker, "from os.path import join\n", "main.main")
    assert said == "Module 'main' has no function 'main'; it has no functions of its own."


def test_lists_of_names_are_bounded(make_worker: MakeWorker) -> None:
    files: dict[str, str | bytes] = {f"{'x' * 180}{number:02}.py": "" for number in range(60)}
    files["main.py"] = "".join(f"def {'f' * 5000}{number}(): pass\n" for number in range(500))
    said = not_loaded(make_worker(), files, "hello.main")
    assert said.endswith("and 41 more.")
    assert len(said) < 2000
    said = not_loaded(make_worker(), files, "main.main")
    assert said.endswith("and 480 more.")
    assert len(said) < 2000


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.scandir = os.path.isdir = os.path.isfile = os.path.join = None\n",
        "import builtins as b\nb.sorted = b.any = None\n",
    ],
)
def test_a_module_that_spoils_what_messages_need_gets_a_message(make_worker: MakeWorker, code: str) -> None:
    assert not_loaded(make_worker(), code, "main.main")
    files = {"pkg/__init__.py": code}
    assert not_loaded(make_worker(), files, "pkg.mod.main")


def test_a_package_of_many_files_is_listed_in_part(make_worker: MakeWorker) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(3000):
            archive.writestr(f"file{number:04}.txt", "")
    said = not_loaded(make_worker(max_package_files=5000), buffer.getvalue(), "main.main")
    assert said.endswith(", and at least 980 more.")


# Imports


def test_a_missing_import_of_the_module_is_not_a_missing_entry(worker: Worker) -> None:
    said = not_loaded(worker, "import os\nimport requests\n" + FINE, "main.main")
    assert said.startswith("ModuleNotFoundError: No module named 'requests' (main.py, line 2). Neither the package nor")


def test_a_module_that_fails_to_import_itself_under_another_name_is_no_missing_entry(worker: Worker) -> None:
    said = not_loaded(worker, {"pkg/__init__.py": "import pkg.mod\n"}, "pkg.mod.main")
    assert said.startswith("ModuleNotFoundError: No module named 'pkg.mod' (pkg/__init__.py, line 1).")


def test_an_import_that_the_only_folder_has_is_a_package_to_zip_differently(worker: Worker) -> None:
    files = {"hello/main.py": "import helper\n" + FINE, "hello/helper.py": ""}
    said = not_loaded(worker, files, "hello.main.main")
    assert (
        "No module named 'helper' (hello/main.py, line 1). All files are in the folder hello/, which has helper" in said
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\ndef main(:\n", "SyntaxError: invalid syntax (main.py, line 2)."),
        ("x = 1\nx.y\n", "AttributeError: 'int' object has no attribute 'y' (main.py, line 2)."),
        ("raise ImportError\n", "ImportError (main.py, line 1)."),
        ("raise SystemExit(3)\n", "SystemExit: 3 (main.py, line 1)."),
    ],
)
def test_an_import_that_raises_says_where(worker: Worker, code: str, said: str) -> None:
    assert not_loaded(worker, code, "main.main") == said
