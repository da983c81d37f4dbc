"""prtrace metrics against a real socket."""

import stat


def test_the_state_goes_to_standard_output(prtrace, served):
    done = prtrace("metrics", "--details", "--socket", served.path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "prtrace_up 1" in lines
    assert 'prtrace_reserved{lu="naa.1"} 1' in lines
    assert 'prtrace_in_doubt{lu="naa.2",fact="reservation"} 1' in lines
    assert not [line for line in lines if line.startswith('prtrace_reserved{lu="naa.2"')]


def test_the_file_is_whole_and_another_user_can_read_it(prtrace, served, tmp_path):
    file = tmp_path / "out" / "prtrace.prom"
    file.parent.mkdir()
    file.write_text("of the last minute")
    done = prtrace("metrics", "-o", file, "--socket", served.path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "prtrace_up 1\n" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(file.parent.iterdir()) == [file]


def test_without_an_agent_the_file_says_so(prtrace, tmp_path):
    file = tmp_path / "prtrace.prom"
    done = prtrace("metrics", "-o", file, "--socket", tmp_path / "none")
    assert done.returncode == 5
    assert "no agent on" in done.stderr
    assert [line for line in file.read_text().splitlines() if line[0] != "#"] == ["prtrace_up 0"]


def test_a_folder_that_is_not_there(prtrace, served, tmp_path):
    done = prtrace("metrics", "-o", tmp_path / "no" / "file", "--socket", served.path)
    assert done.returncode == 1
    assert "cannot be written: No such file" in done.stderr
