"""What a report says stays text in its page, and the page's policy lets no other script run."""

import html.parser
import json

from hypothesis import given
from hypothesis import strategies as st

from prtrace.explain.page import Parts, page

PARTS = Parts(
    '<meta content="@POLICY@"><style>@STYLE@</style><script id=r>@REPORT@</script>'
    "<script>@SCRIPT@</script>",
    "b{}",
    "1",
)


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.held = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.held.append(data)


@given(
    st.text() | st.sampled_from(["</script><script>alert(1)</script>", "<!--<script>", "@SCRIPT@"])
)
def test_any_text_stays_in_its_json(text):
    found = Tags(page(PARTS, [{"name": text}], "now"))
    assert [tag for tag, _ in found.tags] == ["meta", "style", "script", "script"]
    report = json.loads("".join(found.held[1:-1]))
    assert report["units"] == [{"name": text}]


def test_the_policy_has_the_hashes_of_script_and_style():
    found = Tags(page(PARTS, [], "now"))
    policy = found.tags[0][1]["content"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
