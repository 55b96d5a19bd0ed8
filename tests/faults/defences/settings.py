"""Settings and conditions that are wrong, huge or hostile."""

from __future__ import annotations

from tests.faults.defences import Fault, Removal

_HOSTILE = "tests/faults/test_hostile_settings.py"
_NO_DOCUMENT = f"{_HOSTILE}::test_what_is_no_document"
_BAD_EXPERIMENT = f"{_HOSTILE}::test_a_bad_experiment"
_CONDITIONS = "tests/test_conditions.py"
_TOKEN_CAP = Removal("hypotest/condition_tokens.py", "        if len(tokens) == MAX_TOKENS:", "        if False:")

FAULTS: list[Fault] = [
    Fault(
        "whoever controls the settings writes code into a condition",
        "the grammar is closed: control, and an ht_sdk_error that says what and where; nothing is run",
        f"{_CONDITIONS}::test_outside",
        "136 texts refused here, 68 pieces of code in the fuzzer",
        (
            Removal("hypotest/conditions.py", "if kind != METHOD or name not in _METHODS:", "if kind != METHOD:"),
            Removal(
                "hypotest/conditions.py", "least, most = _METHODS[name]", "least, most = _METHODS.get(name, (0, 1))"
            ),
        ),
    ),
    Fault(
        "a condition that takes long to read",
        "refused at 3,072 tokens; lists of plain literals are read at once, up to 8,192 items",
        "tests/faults/test_fuzz.py::test_a_short_run[grammar]",
        "64 KiB of any of 70 shapes within 10 ms (60 to 200 ms before)",
        (_TOKEN_CAP,),
    ),
    Fault(
        "a condition nested 30,000 deep",
        "refused at 50 levels: control in that experiment only",
        f"{_BAD_EXPERIMENT}[a condition 30,000 deep]",
        "400 frames are enough for every input of the fuzzer",
        (_TOKEN_CAP, Removal("hypotest/conditions.py", "if self._level > MAX_DEPTH:", "if False:")),
    ),
    Fault(
        "a set in a condition whose items all have one hash",
        "refused; a list of them is scanned, not hashed",
        f"{_CONDITIONS}::test_items_of_one_hash",
        "2,700 multiples of 2**61 - 1 took 39 ms",
        (Removal("hypotest/condition_tokens.py", "        if crowded(items):", "        if False:"),),
    ),
    Fault(
        "a condition that works on a long text over and over",
        "ten methods within each other at most, and 256 characters for strip",
        f"{_CONDITIONS}::test_methods_are_bounded",
        "48 methods on 64 KiB took 22 ms a call, strip of 20,000 characters 18 ms",
        (Removal("hypotest/condition_nodes.py", "METHOD_DEPTH = 5 ", "METHOD_DEPTH = 1 "),),
    ),
    Fault(
        "a number in a condition that Python reads and does not write",
        "control in that experiment only",
        f"{_BAD_EXPERIMENT}[a number of 4,800 digits in a condition]",
        "kept all settings from being published before",
        (
            Removal(
                "hypotest/conditions.py",
                "    except ValueError as error:  # an int",
                "    except KeyError as error:  # an int",
            ),
        ),
    ),
    Fault(
        "tags whose own operators raise",
        "the condition has no value: control, and an ht_sdk_error; the call does not raise",
        f"{_CONDITIONS}::test_hostile_tags",
        "7 operators, 4 exceptions",
        (
            Removal(
                "hypotest/conditions.py",
                "except Exception as error:\n            let_through(error)\n            raise",
                "except TypeError as error:\n            let_through(error)\n            raise",
            ),
        ),
    ),
    Fault(
        "the server's answer is no settings document: HTML, half of it, another encoding",
        "the settings in force stay; status() and the log say so; asked for again at the next poll",
        f"{_NO_DOCUMENT}[truncated]",
        "13 such answers",
        (
            Removal(
                "hypotest/poller.py",
                '            self.error = f"settings refused: {error}"\n            return False\n',
                "            document = validation.Document({}, [], {})\n",
            ),
        ),
    ),
    Fault(
        "settings nested 100,000 deep",
        "refused; the settings in force stay",
        f"{_NO_DOCUMENT}[a deep experiment]",
        "100,000 levels",
        (Removal("hypotest/document.py", "except (ValueError, RecursionError)", "except (ValueError)"),),
    ),
    Fault(
        "settings in UTF-16, for which Python would import a module while the host may fork",
        "refused; the settings in force stay",
        "tests/test_settings.py::test_encodings",
        "4 encodings; found by the fuzzer's audit hook",
        (Removal("hypotest/document.py", '.removeprefix(BOM_UTF8).decode("utf-8", "surrogatepass")', ""),),
    ),
    Fault(
        "settings of more than 64 MiB",
        "refused while they are read; the settings in force stay",
        f"{_NO_DOCUMENT}[more than 64 MiB]",
        "64 MiB are taken, 64 MiB and 200 bytes are not",
        (Removal("hypotest/transport.py", "            if len(body) > cap:", "            if False:"),),
    ),
    Fault(
        "a gzip bomb for settings",
        "unpacked to 64 MiB and no further, then refused",
        "tests/test_transport.py::test_the_size_is_capped",
        "1 GiB in 1 MiB",
        (
            Removal(
                "hypotest/transport.py", "unpacker.decompress(part, cap + 1 - len(body))", "unpacker.decompress(part)"
            ),
        ),
    ),
    Fault(
        "NaN or Infinity in one experiment",
        "control in that experiment only, though it makes the whole document no JSON",
        f"{_BAD_EXPERIMENT}[NaN]",
        "NaN, Infinity, -Infinity, 1e999",
        (
            Removal(
                "hypotest/document.py",
                "            document = json.loads(",
                "            raise\n            json.loads(",
            ),
        ),
    ),
    Fault(
        "a lone surrogate in one experiment",
        "control in that experiment only",
        f"{_BAD_EXPERIMENT}[a lone surrogate]",
        "in texts, names and raw bytes",
        (
            Removal(
                "hypotest/validation.py",
                "        except TypeError:  # orjson's",
                "        except KeyError:  # orjson's",
            ),
        ),
    ),
    Fault(
        "a field of one experiment has a wrong type",
        "control in that experiment only, and an ht_sdk_error that names the field",
        f"{_HOSTILE}::test_wrong_types",
        "53 wrong values of 8 fields at once",
        (
            Removal(
                "hypotest/validation.py",
                "        if message:\n            found.append",
                "        if message and field not in _OPTIONAL:\n            found.append",
            ),
        ),
    ),
    Fault(
        "tag names that are no identifiers, of 16,000 characters each",
        "refused over 256: each is compared at each token",
        f"{_CONDITIONS}::test_long_names_that_are_no_identifiers",
        "77 ms for 32 KB before",
        (
            Removal(
                "hypotest/condition_tokens.py",
                "if any(len(name) > MAX_SPECIAL_NAME for name in special):",
                "if not self._names:",
            ),
        ),
    ),
    Fault(
        fault="Code asks for an experiment that is gone, and the slot it would be in is large",
        happens="Once for a generation; 1,000 such names are remembered",
        test="tests/test_snapshot.py::test_names_without_an_experiment_are_remembered",
        figure="read once; before, 2.6 ms at each call beside 100,000 ids of overrides",
        removals=(Removal("hypotest/snapshot.py", "            view.decoded[name] = None", "            pass"),),
    ),
    Fault(
        fault="The server serves ids of overrides in another order each time, as a set has them",
        happens="They are the same settings: no publication, and no line",
        test="tests/test_poller.py::test_overrides_in_another_order_are_the_same_settings",
        figure="3 polls, 1 publication; before, one each",
        removals=(
            Removal(
                "hypotest/validation.py",
                "if ids := sorted(item for item in entry.get(field, ()) if isinstance(item, str)):",
                "if ids := [item for item in entry.get(field, ()) if isinstance(item, str)]:",
            ),
        ),
    ),
]
