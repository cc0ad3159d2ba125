"""`alignclip keys`: the operator makes keys on the database itself, also when he has none."""

import httpx2


def models(serve, key):
    return httpx2.get(f"{serve.url}/v1/models", headers={"authorization": f"Bearer {key}"}, timeout=60).status_code


def test_key_made_in_the_terminal_works_until_it_is_revoked(alignclip, serve):
    made = alignclip("keys", "create", "camera", "--scope", "infer", "--owner", "ada", ALIGNCLIP_API_KEY="none")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert models(serve, key) == 200
    (line,) = (line for line in alignclip("keys", "list", "--owner", "ada").stdout.splitlines() if "camera" in line)
    assert key not in line
    key_id = line.split()[0]
    rotated = alignclip("keys", "rotate", key_id).stdout.strip()
    assert (models(serve, key), models(serve, rotated)) == (401, 200)
    successor = next(line for line in alignclip("keys", "list").stdout.splitlines() if "good" in line).split()[0]
    assert alignclip("keys", "revoke", successor).returncode == 0
    assert models(serve, rotated) == 401


def test_wrong_scope_and_unknown_key_are_one_line(alignclip):
    for arguments in (("create", "x", "--scope", "root"), ("revoke", "key-none"), ("create", "x", "--owner", "../x")):
        answer = alignclip("keys", *arguments)
        assert answer.returncode == 1
        assert len(answer.stderr.splitlines()) == 1
