"""The page in headless Chromium."""

import pytest

from tests.serving.chromium import EXECUTABLE, Chromium

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium")
SCRIPTS = ("<script>harmed=1</script>", "<img src=x onerror=harmed=1>")
EXAMPLES = {  # what the page's own models answer
    "pretraining": ["fill-mask", "next-sentence", "feature-extraction", "tokens"],
    "classification": ["text-classification", "feature-extraction", "tokens"],
    "question_answering": ["question-answering", "feature-extraction", "tokens"],
    "token_classification": ["token-classification", "feature-extraction", "tokens"],
}


@pytest.fixture(scope="module")
def page(service, tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("chromium")) as page:
        page.look(1280)
        yield page


@pytest.fixture
def opened(page, service):
    page.open(service.url)
    page.wait("document.readyState === 'complete' && document.querySelectorAll('[role=tab]').length === 4")
    return page


def choose(page, model):
    page.evaluate(f"model.value = {model!r}; model.dispatchEvent(new Event('change'))")
    count = len(EXAMPLES[model])
    page.wait(f"document.querySelectorAll('[role=tab]').length === {count}")
    page.wait(f"document.querySelector('[role=tab]').dataset.task === {EXAMPLES[model][0]!r}")


def run(page, task=None):
    if task:
        page.evaluate(f"document.getElementById('tab-{task}').click()")
    page.evaluate("document.getElementById('run').click()")
    page.wait("!document.getElementById('answer').hidden || !document.getElementById('error').hidden")


@pytest.mark.parametrize("model", EXAMPLES)
def test_every_task_shows_an_answer(opened, model):
    choose(opened, model)
    tasks = opened.evaluate("[...document.querySelectorAll('[role=tab]')].map((tab) => tab.dataset.task)")
    assert tasks == EXAMPLES[model]
    for task in tasks:
        run(opened, task)
        assert opened.evaluate("document.getElementById('error').hidden"), opened.evaluate("error.textContent")
        shown = {"feature-extraction": "table.heat td", "tokens": ".tokens li"}.get(task, ".bars li")
        assert opened.evaluate(f"document.querySelectorAll('#answer {shown}').length") > 1


def test_an_answer_is_marked_in_the_text(opened):
    choose(opened, "question_answering")
    context = "👍 the cat sat in the old town"
    opened.evaluate(f"document.getElementById('field-context').value = {context!r}")
    run(opened)
    best = opened.evaluate("document.querySelector('mark.best').textContent")
    assert best and best in context
    assert opened.evaluate("document.querySelector('#answer .text').textContent") == context
    assert opened.evaluate("document.querySelector('.bars .name').textContent") == best


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("model", EXAMPLES)
def test_texts_are_shown_as_text(opened, model, script):
    choose(opened, model)
    for task in EXAMPLES[model]:
        opened.evaluate(f"document.getElementById('tab-{task}').click()")
        opened.evaluate(
            "for (const field of document.querySelectorAll('#fields textarea, #fields input[type=text]')) "
            "field.value = 'the cat';"
            f"[...document.querySelectorAll('#fields textarea')].at(-1).value = {script + ' [MASK]'!r} + '\\nthe cat'"
        )
        run(opened)
        assert opened.evaluate("document.getElementById('error').hidden"), opened.evaluate("error.textContent")
    assert opened.evaluate("document.querySelectorAll('main script, main img').length") == 0
    assert opened.evaluate("window.harmed") is None


def test_errors_are_announced(opened):
    opened.evaluate("document.getElementById('field-text').value = 'nothing to fill'")
    run(opened)
    assert "[MASK]" in opened.evaluate("document.querySelector('[role=alert]').textContent")


def test_the_keyboard_is_enough(opened):
    opened.evaluate("document.querySelector('[role=tab]').focus()")
    opened.press("ArrowRight", 39)
    assert opened.evaluate("document.activeElement.dataset.task") == "next-sentence"
    assert opened.evaluate("document.querySelectorAll('[role=tab][aria-selected=true]').length") == 1
    opened.press("Home", 36)
    opened.evaluate("document.getElementById('field-text').focus()")
    opened.press("Enter", 13, ctrl=True)
    opened.wait("!document.getElementById('answer').hidden")


def test_fields_have_names(opened):
    for task in EXAMPLES["pretraining"]:
        opened.evaluate(f"document.getElementById('tab-{task}').click()")
        assert opened.evaluate(
            "[...document.querySelectorAll('input, textarea, select')].every((one) => one.labels.length)"
        )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_screen_and_follows_the_colour_scheme(opened, width, dark):
    opened.look(width, dark=dark)
    run(opened)
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    red = opened.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0])")
    assert (red < 60) == dark
    opened.look(1280)


def test_no_external_requests_and_no_failed_ones(opened, service):
    opened.open(f"{service.url}/docs")
    opened.wait("document.querySelectorAll('.route').length > 15")
    urls = [one["params"]["request"]["url"] for one in opened.events if one["method"] == "Network.requestWillBeSent"]
    assert urls and all(url.startswith((service.url, "data:", "about:")) for url in urls)
    assert not [one for one in opened.events if one["method"] == "Runtime.exceptionThrown"]
    broken = [one for one in opened.events if one["method"] == "Log.entryAdded"]
    assert all("status of 4" in one["params"]["entry"]["text"] for one in broken), broken


def test_a_key_is_asked_for(page, start):
    keyed = start("--api_key", "secret")
    page.open(keyed.url)
    page.wait("document.getElementById('key-form') && !document.getElementById('key-form').hidden")
    page.evaluate("document.getElementById('key').value = 'secret'; document.querySelector('#key-form button').click()")
    page.wait("document.querySelectorAll('[role=tab]').length === 4")
    run(page)
    assert page.evaluate("document.getElementById('error').hidden")
