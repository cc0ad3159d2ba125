"""All pages, the way to each, and the form of a new job."""

from playwright.sync_api import Page, expect

NEW_DOMAIN = "noto"
UNSEEN = ("boat", "monkey")
NUM_STEPS = 24
TRAINING_MILLISECONDS = 900_000  # for whole trainings, each a process that starts, on a machine that does other work
SETTINGS = "batch_size = 8\nevaluate_every_steps = 4\ncheckpoint_every_steps = 12"

# Settings of a job that goes on until it is ended.
ENDLESS = {
    "num_steps": 100_000,
    "batch_size": 8,
    "evaluate_every_steps": 10,
    "checkpoint_every_steps": 20,
}

PAGES = (
    "jobs",
    "job",
    "job/classes",
    "job/mistakes",
    "job/similarity",
    "job/settings",
    "job/history",
    "new",
    "new?clone",
    "try",
    "compare",
    "models",
    "evaluations",
    "evaluation",
    "evaluations/new",
    "classifications",
    "classification",
)


def fill_new_job(page: Page, archive: bytes, *, name: str) -> None:
    """From the empty form to the button that starts."""
    page.goto("/#/new")
    page.set_input_files("#archive", {"name": "emoji.zip", "mimeType": "application/zip", "buffer": archive})
    expect(page.get_by_text("Chosen: emoji.zip")).to_be_visible()
    page.get_by_role("checkbox", name=NEW_DOMAIN).check()
    for folder in UNSEEN:
        page.get_by_role("region", name="Classes").get_by_text(folder, exact=True).click()
    page.get_by_label("Unit of the length").select_option("num_steps")
    page.get_by_label("Length", exact=True).fill(str(NUM_STEPS))
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_text("More settings").click()
    page.get_by_label("Hyper-parameters").fill(SETTINGS)


def place_of(name: str, job: dict, evaluation: dict, classification: dict) -> str:
    """Where a page of `PAGES` is, behind the # of the address."""
    first, _, tab = name.partition("/")
    places = {
        "job": f"jobs/{job['id']}/{tab}",
        "new?clone": f"new?clone={job['id']}",
        "evaluation": f"evaluations/{evaluation['id']}",
        "classification": f"classifications/{classification['id']}",
    }
    return name if name == "evaluations/new" else places.get(first, name)


def open_page(page: Page, name: str, job: dict, evaluation: dict, classification: dict) -> None:
    """Go there, and wait until what it loads is there."""
    page.goto(f"/#/{place_of(name, job, evaluation, classification)}")
    expect(page.locator("h1")).to_be_visible()
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
