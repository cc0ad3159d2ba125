"""The ways of a person through the page, in their order: one service, one job that is made, watched and used."""

import io
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.web.places import (
    ENDLESS,
    NEW_DOMAIN,
    NUM_STEPS,
    PAGES,
    TRAINING_MILLISECONDS,
    UNSEEN,
    fill_new_job,
    open_page,
)

pytestmark = [pytest.mark.page, pytest.mark.timeout(3600)]


def test_a_wrong_key_says_what_to_do_and_a_right_one_is_kept_for_the_tab(new_page, service, screenshot):
    with new_page(has_key=False, expected="401") as page:
        page.goto("/")
        expect(page.get_by_role("heading", name="Welcome")).to_be_focused()
        screenshot(page, "key")
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("alert")).to_contain_text("Compare it with the file")
        page.get_by_label("API key").fill(service.api_key)
        page.get_by_label("API key").press("Enter")
        expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()
        assert service.api_key not in page.url
        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_label("API key")).to_be_visible()


def test_without_jobs_the_list_teaches_the_first_step(page, screenshot):
    page.goto("/")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    screenshot(page, "jobs-empty")
    page.get_by_role("link", name="Make the first job").click()
    expect(page.get_by_role("heading", name="New job")).to_be_focused()


def test_a_broken_archive_that_is_dropped_is_refused_in_words(new_page):
    with new_page(expected="400") as page:
        page.goto("/#/new")
        drop(page, "broken.zip", "no zip")
        expect(page.get_by_role("alert")).to_contain_text("broken.zip")
        drop(page, "notes.txt", "no pictures")
        expect(page.get_by_role("alert")).to_contain_text("Drop one zip, or one folder")


def drop(page: Page, name: str, content: str) -> None:
    """Drag a file to the place for pictures, and let it go there."""
    dragged = page.evaluate_handle(
        """([name, content]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([content], name));
          return transfer;
        }""",
        [name, content],
    )
    place = page.locator(".drop")
    place.dispatch_event("dragover", {"dataTransfer": dragged})
    expect(place).to_have_class(re.compile("is-over"))
    place.dispatch_event("drop", {"dataTransfer": dragged})
    expect(place).not_to_have_class(re.compile("is-over"))


def test_the_dataset_report_and_the_estimate_come_before_the_start(page, archive, screenshot):
    fill_new_job(page, archive, name="emoji")
    report = page.get_by_role("region", name="What the pictures are")
    expect(report.get_by_text("Images", exact=True).first).to_be_visible()
    expect(page.get_by_role("region", name="Start").get_by_text(f"{NUM_STEPS}", exact=True)).to_be_visible()
    expect(page.get_by_role("application", name=re.compile("Class similarity"))).to_be_visible()
    expect(report.get_by_text("Every picture was decoded")).to_be_visible()
    screenshot(page, "new-job", full_page=True)


def test_a_setting_that_cannot_be_is_told_before_the_start(new_page, archive):
    with new_page(expected="400") as page:
        fill_new_job(page, archive, name="emoji")
        page.get_by_label("Hyper-parameters").fill("smoothing = 0.9")
        expect(page.get_by_role("region", name="Start").get_by_role("alert")).to_contain_text("between 0 and 0.5")
        page.get_by_label("Hyper-parameters").fill("smoothing 0.2")
        expect(page.get_by_role("region", name="Start").get_by_role("alert")).to_contain_text("smoothing = 0.2")


def test_a_job_is_made_and_watched_to_its_result(job, page, screenshot):
    assert (job["status"], job["algorithm"], job["suffix"]) == ("succeeded", "alignclip", "emoji")
    assert (job["test_domains"], sorted(job["unseen_classes"])) == ([NEW_DOMAIN], sorted(UNSEEN))
    page.goto(f"/#/jobs/{job['id']}")
    groups = page.get_by_role("region", name="Accuracy by group")
    expect(groups.get_by_role("row")).to_have_count(7)  # its head; trained and new domains with three kinds of classes
    expect(groups).to_contain_text(f"{100 * job['result']['headline']['tuned']:.1f}%")
    screenshot(page, "job-curves", full_page=True)
    page.get_by_role("button", name="SLS").click()
    expect(page.get_by_role("button", name="SLS")).to_have_attribute("aria-pressed", "false")
    page.get_by_text("Numbers").first.click()
    expect(page.get_by_role("region", name="Numbers of Loss").get_by_role("row")).to_have_count(NUM_STEPS + 1)


def test_classes_tell_what_got_better_and_what_is_taken_for_what(job, page, screenshot):
    page.goto(f"/#/jobs/{job['id']}/classes")
    table = page.get_by_role("region", name="Accuracy of each class")
    trained = 12 - len(UNSEEN)
    expect(table.get_by_role("row")).to_have_count(1 + trained)
    page.get_by_label("Images and classes").select_option("test_domains/unseen_classes")
    expect(table.get_by_role("row")).to_have_count(1 + len(UNSEEN))
    page.get_by_label("Images and classes").select_option("trained_domains/trained_classes")
    screenshot(page, "job-classes", full_page=True)
    matrix = page.get_by_role("application", name=re.compile("Confusion matrix"))
    matrix.press("ArrowRight")
    matrix.press("ArrowDown")
    expect(page.get_by_text(re.compile(r"taken for .*: \d+ of \d+")).first).to_be_visible()


def test_mistakes_show_the_five_likeliest_classes_of_both_models(job, page, screenshot):
    page.goto(f"/#/jobs/{job['id']}/mistakes")
    expect(page.get_by_role("rowheader", name=re.compile("Mistakes are like the truth"))).to_be_visible()
    page.get_by_label("Images and classes").select_option("test_domains/trained_classes")
    first = page.locator("section.card", has=page.locator(".shares")).first
    expect(first.get_by_role("listitem").nth(4)).to_be_visible()
    expect(first.get_by_role("list").first).to_contain_text(re.compile(r"similarity to [\w ]+ 0\.\d\d"))
    expect(first.get_by_role("img", name=re.compile("The picture: "))).to_be_visible()
    page.set_viewport_size({"width": 1200, "height": 1400})
    expect(page.get_by_role("img", name=re.compile("The picture: ")).nth(3)).to_be_visible()
    screenshot(page, "job-mistakes")


def test_similarities_are_read_by_pointer_and_by_keyboard(job, page, screenshot):
    page.goto(f"/#/jobs/{job['id']}/similarity")
    matrix = page.get_by_role("application", name=re.compile("Class similarity, 12 by 12"))
    page.get_by_label("Sorted by").select_option("name")
    matrix.press("ArrowRight")
    matrix.press("ArrowRight")
    expect(page.get_by_text(re.compile(r"^bird × boat: 0\.\d{3}$"))).to_be_visible()
    matrix.hover(position={"x": 300, "y": 100})
    expect(page.get_by_text(re.compile(r"^[\w ]+ × [\w ]+: \d\.\d{3}$"))).to_be_visible()
    page.get_by_label("Sorted by").select_option("cluster")
    screenshot(page, "job-similarity", full_page=True)


def test_settings_have_the_papers_symbols_and_the_history_its_events(job, page, screenshot):
    page.goto(f"/#/jobs/{job['id']}/settings")
    row = page.get_by_role("row", name=re.compile("^layer_alignment_weight"))
    expect(row).to_contain_text("w_AL")
    screenshot(page, "job-settings")
    page.get_by_role("link", name="History").click()
    expect(page.get_by_text("The model is complete.", exact=True)).to_be_visible()
    expect(page.get_by_text(f"Step {NUM_STEPS}").first).to_be_visible()
    screenshot(page, "job-history")


def test_a_job_is_cloned_paused_resumed_and_cancelled(job, other_job):
    assert (other_job["status"], other_job["algorithm"]) == ("cancelled", "finetune")
    for name in ("training_file", "model", "test_domains", "unseen_classes", "class_names"):
        assert other_job[name] == job[name], name
    assert other_job["hyperparameters"]["layer_alignment_weight"] == 0  # the algorithm's, not the cloned job's
    assert other_job["hyperparameters"]["global_batch_size"] == 8


def test_the_list_shows_jobs_and_leads_to_their_comparison(job, other_job, page, screenshot):
    page.goto("/")
    rows = page.get_by_role("list", name="Jobs").get_by_role("listitem")
    expect(rows.first).to_contain_text("Cancelled")
    screenshot(page, "jobs")
    page.get_by_role("checkbox", name="Compare emoji").check()
    page.get_by_role("checkbox", name="Compare plain").check()
    page.get_by_role("link", name="Compare 2 jobs").click()
    expect(
        page.get_by_role("img", name=re.compile(r"Validation accuracy up to step \d+\. Last: .*emoji"))
    ).to_be_visible()
    expect(page.get_by_role("region", name="Results").get_by_role("row")).to_have_count(3)
    differences = page.get_by_role("region", name="Settings in which they differ")
    expect(
        differences.get_by_role("row", name=re.compile("algorithm finetune alignclip|algorithm alignclip finetune"))
    ).to_be_visible()
    screenshot(page, "compare", full_page=True)


def test_jobs_that_come_and_end_meanwhile_can_be_compared(job, other_job, service, page):
    page.goto("/#/compare")
    page.get_by_text("Choose jobs").click()
    choices = page.get_by_role("checkbox")
    expect(choices.first).to_be_visible()
    num_jobs = choices.count()
    body = {name: job[name] for name in ("training_file", "model", "test_domains", "unseen_classes")}
    made = service.http.post("/v1/fine_tuning/jobs", json=body | {"suffix": "latecomer"} | ENDLESS).json()
    late = page.get_by_role("checkbox", name="latecomer")
    expect(late).to_be_visible()
    expect(choices).to_have_count(num_jobs + 1)
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(2)
    service.http.post(f"/v1/fine_tuning/jobs/{made['id']}/cancel")
    expect(page.get_by_role("checkbox", name=re.compile("latecomer.*Cancelled"))).to_be_visible()
    late.check()
    expect(page.get_by_role("region", name="Results").get_by_role("row", name="latecomer")).to_contain_text("Cancelled")


def test_a_job_that_never_started_says_so_and_is_retried(job, service, page):
    body = {name: job[name] for name in ("training_file", "model", "test_domains", "unseen_classes")} | ENDLESS
    ahead, made = (service.http.post("/v1/fine_tuning/jobs", json=body).json()["id"] for _ in range(2))
    page.goto(f"/#/jobs/{made}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("It never started")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="No curves")).to_be_visible()
    page.get_by_role("link", name="Classes").click()
    expect(page.get_by_role("heading", name="No result")).to_be_visible()
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("Waiting", exact=True)).to_be_visible()
    for each in (made, ahead):
        service.http.post(f"/v1/fine_tuning/jobs/{each}/cancel")
    expect(page.get_by_text("Cancelled", exact=True)).to_be_visible()


def test_own_pictures_are_classified_with_any_labels_and_explained(job, page, pictures, screenshot):
    page.goto(f"/#/try?model={job['fine_tuned_model']}")
    chosen = [next((pictures / "noto" / name).glob("*.png")) for name in ("cat", "boat")]
    page.set_input_files("#pictures", chosen)
    for path in chosen:
        card = page.get_by_role("region", name=path.name)
        expect(card.get_by_role("heading", name="Zero-shot")).to_be_visible()
        expect(card.get_by_role("listitem")).to_have_count(10)
    page.get_by_label("Labels").fill("boat, cat, a rusty bicycle")
    card = page.get_by_role("region", name=chosen[0].name)
    expect(card.get_by_role("listitem")).to_have_count(6)
    expect(card.get_by_text("a rusty bicycle").first).to_be_visible()
    card.get_by_text("Where it looks").click()
    expect(card.get_by_role("img", name=re.compile("Attention of the class token, Tuned"))).to_be_visible()
    expect(card.get_by_role("img", name=re.compile("D-V branch"))).to_have_count(2)
    screenshot(page, "try", full_page=True)
    page.get_by_label("Beside it").select_option("nothing")
    expect(card.get_by_role("listitem")).to_have_count(3)
    expect(card.get_by_role("img", name=re.compile("D-V branch"))).to_have_count(1)
    page.get_by_label("Labels").fill("cat")
    expect(page.get_by_role("alert")).to_contain_text("at least two")
    page.get_by_role("button", name=f"Remove {chosen[0].name}").press("Enter")
    expect(page.get_by_role("button", name=f"Remove {chosen[1].name}")).to_be_focused()


def test_a_picture_that_is_none_is_named(job, new_page):
    with new_page(expected="400") as page:
        page.goto(f"/#/try?model={job['fine_tuned_model']}")
        page.set_input_files("#pictures", {"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"})
        expect(page.get_by_role("alert")).to_contain_text("notes.png")


def test_a_service_that_is_away_is_told_and_found_again(new_page):
    with new_page(expected="ERR_INTERNET_DISCONNECTED") as page:
        page.goto("/")
        expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()
        page.context.set_offline(True)
        expect(page.get_by_role("alert")).to_contain_text("does not answer")
        page.context.set_offline(False)
        expect(page.get_by_role("alert")).to_have_count(0)


def test_a_key_that_ends_leaves_what_was_filled_in(new_page, service):
    guest = service.http.post("/v1/api_keys", json={"name": "guest", "scopes": ["infer", "train"]}).json()
    with new_page(has_key=False, expected="401") as page:
        page.goto("/#/evaluations/new")
        page.get_by_label("API key").fill(guest["key"])
        page.get_by_role("button", name="Open").click()
        page.get_by_label("Name").fill("which one holds")
        assert service.http.delete(f"/v1/api_keys/{guest['id']}").status_code == 200
        page.get_by_label("Or a reference").fill("/nowhere/pets")
        page.get_by_role("button", name="Use", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("ask for a new one")
        expect(page.get_by_role("heading", name="Welcome")).to_be_focused()
        expect(page.get_by_label("Name")).to_be_hidden()
        page.get_by_label("API key").fill(service.api_key)
        page.get_by_label("API key").press("Enter")
        expect(page.get_by_role("heading", name="New evaluation")).to_be_focused()
        expect(page.get_by_label("Name")).to_have_value("which one holds")
        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_label("Name")).to_have_count(0)


def test_a_job_that_is_not_there_leads_back(new_page):
    with new_page(expected="404") as page:
        page.goto("/#/jobs/ftjob-nothing")
        expect(page.get_by_role("alert")).to_contain_text("ftjob-nothing")
        page.get_by_role("link", name="To the jobs that are there").click()
        expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()


def test_without_evaluations_the_list_teaches_what_they_are_for(page):
    page.goto("/#/evaluations")
    expect(page.get_by_role("heading", name="No evaluations yet")).to_be_visible()
    page.get_by_role("link", name="Make the first evaluation").click()
    expect(page.get_by_role("heading", name="New evaluation")).to_be_focused()


def test_an_evaluation_fills_its_table_while_its_jobs_end(evaluation, page, screenshot):
    assert (evaluation["status"], evaluation["protocol"]) == ("succeeded", "unseen_classes")
    page.goto("/#/evaluations")
    newest = page.get_by_role("list", name="Evaluations").get_by_role("listitem").first
    expect(newest).to_contain_text("2 of 2 trainings")
    screenshot(page, "evaluations")
    newest.get_by_role("link", name="which method").click()
    tuned = page.get_by_role("region", name="Results").get_by_role("row", name=re.compile("^finetune"))
    for cell in evaluation["cells"]:
        if cell["method"] == "finetune":
            expect(tuned).to_contain_text(f"{100 * cell['accuracy']:.1f}%")
    screenshot(page, "evaluation")
    page.get_by_text("All tables in per cent").click()
    expect(page.get_by_text(evaluation["tables"][0]["markdown"].splitlines()[0])).to_be_visible()
    page.get_by_role("region", name="Trainings").get_by_role("link", name="finetune").click()
    expect(page.get_by_role("heading", name="finetune, seed 0")).to_be_focused()
    page.get_by_role("link", name="its evaluation").click()
    expect(page.get_by_role("heading", name="which method")).to_be_focused()


def test_a_question_is_asked_again_and_cancelled(evaluation, service, page, screenshot):
    page.goto(f"/#/evaluations/{evaluation['id']}")
    page.get_by_role("link", name="Ask again").click()
    expect(page.get_by_role("checkbox", name="finetune")).to_be_checked()
    expect(page.get_by_role("checkbox", name="alignclip")).not_to_be_checked()
    expect(page.get_by_role("radio", name=re.compile("^New classes"))).to_be_checked()
    page.get_by_label("Seeds").fill("0, 1, 2")
    page.get_by_label("Name").fill("again")
    expect(page.get_by_role("status")).to_contain_text("6 trainings")
    screenshot(page, "new-evaluation", full_page=True)
    page.get_by_role("button", name="Start the evaluation").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("6 of 6 trainings ended")).to_be_visible()
    assert service.http.get("/v1/evaluations").json()["data"][0]["status"] == "cancelled"


def zipped(folders: list[Path], root: Path) -> bytes:
    """Pictures of some class folders below `root`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(path for folder in folders for path in folder.glob("*.png")):
            archive.write(path, path.relative_to(root))
    return content.getvalue()


def test_other_datasets_are_named_by_keyboard_tested_and_asked_again(job, new_page, pictures, service, screenshot):
    drawn = zipped([pictures / NEW_DOMAIN / name for name in ("cat", "boat", "car")], pictures)
    with new_page(expected="400") as page:
        page.goto("/#/evaluations/new")
        page.get_by_label("Or an earlier upload").select_option(job["training_file"])
        page.get_by_role("radio", name=re.compile("^Other datasets")).press("Space")
        expect(page.get_by_text("Add a dataset to test on.")).to_be_visible()
        page.set_input_files(
            "#test-archive", {"name": "my drawings.zip", "mimeType": "application/zip", "buffer": drawn}
        )
        tests = page.get_by_role("list", name="Test datasets").get_by_role("listitem")
        expect(tests).to_have_count(1)
        for reference in ("/nowhere/pets", str(pictures)):
            page.get_by_label("Or add a reference").fill(reference)
            page.get_by_label("Or add a reference").press("Enter")
        page.get_by_label("Or add an earlier upload").select_option(job["training_file"])
        page.get_by_role("button", name="Add the upload").press("Enter")
        expect(tests).to_have_count(4)
        wrong = page.get_by_role("group", name="/nowhere/pets")
        expect(wrong.get_by_role("alert")).to_contain_text("is not below a dataset root")
        page.get_by_role("button", name="Start the evaluation").click()
        expect(wrong).to_be_focused()
        page.get_by_role("button", name="Remove /nowhere/pets").press("Enter")
        expect(page.get_by_label(f"{pictures} is called")).to_be_focused()
        page.keyboard.type("all of it")
        expect(page.get_by_role("alert")).to_contain_text("letters, digits")
        page.get_by_label(f"{pictures} is called").fill("everything")
        page.get_by_role("button", name="Remove emoji.zip").press("Enter")
        expect(page.get_by_label(f"{pictures} is called")).to_be_focused()
        expect(page.get_by_role("alert")).to_have_count(0)
        page.get_by_label("Training pictures of each class").fill("4")
        for name in ("alignclip", "clipood"):
            page.get_by_role("checkbox", name=name).uncheck()
        page.get_by_label("Steps").fill("2")
        page.get_by_label("Name", exact=True).fill("does it hold elsewhere")
        page.get_by_role("button", name="Start the evaluation").click()
        expect(page.get_by_role("heading", name="does it hold elsewhere")).to_be_focused()
        results = page.get_by_role("region", name="Results")
        for column in ("Own test images", "my-drawings", "everything", "Average"):
            expect(results.get_by_role("columnheader", name=column)).to_be_visible()
        expect(page.get_by_text("1 of 1 training ended")).to_be_visible(timeout=TRAINING_MILLISECONDS)
        made = service.http.get("/v1/evaluations").json()["data"][0]
        assert [test["name"] for test in made["test_datasets"]] == ["my-drawings", "everything"]
        tuned = results.get_by_role("row", name=re.compile("^finetune"))
        for cell in made["cells"]:
            expect(tuned).to_contain_text(f"{100 * cell['accuracy']:.1f}%")
        page.get_by_role("link", name="Ask again").click()
        expect(page.get_by_role("radio", name=re.compile("^Other datasets"))).to_be_checked()
        expect(page.get_by_label("Training pictures of each class")).to_have_value("4")
        expect(page.get_by_label("my drawings.zip is called")).to_have_value("my-drawings")
        expect(page.get_by_label(f"{pictures} is called")).to_have_value("everything")
        page.get_by_role("button", name="Start the evaluation").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("1 of 1 training ended")).to_be_visible(timeout=TRAINING_MILLISECONDS)
    again = service.http.get("/v1/evaluations").json()["data"][0]
    assert again["id"] != made["id"]
    assert (again["test_datasets"], again["num_shots"]) == (made["test_datasets"], 4)


@pytest.fixture
def busy_worker(service, job, page):
    """A function that ends the job which until then keeps everything else waiting."""
    body = {name: job[name] for name in ("training_file", "model", "test_domains", "unseen_classes")}
    made = service.http.post("/v1/fine_tuning/jobs", json=body | ENDLESS).json()
    path = f"/v1/fine_tuning/jobs/{made['id']}"
    page.goto(f"/#/jobs/{made['id']}")
    expect(page.get_by_text("Running", exact=True)).to_be_visible(timeout=TRAINING_MILLISECONDS)
    yield lambda: service.http.post(f"{path}/cancel")
    service.http.post(f"{path}/cancel")


def test_a_training_that_failed_tells_why_and_is_retried(busy_worker, service, pictures, page):
    folder = pictures.rename(pictures.with_name("moved"))
    body = {
        "name": "where are they",
        "protocol": "unseen_classes",
        "dataset": str(folder),
        "methods": ["zero_shot", "finetune"],
        "hyperparameters": {"num_steps": 2, "batch_size": 8},
    }
    made = service.http.post("/v1/evaluations", json=body).json()
    folder.rename(pictures)  # before a worker is free
    busy_worker()
    page.goto(f"/#/evaluations/{made['id']}")
    expect(page.get_by_text("2 of 2 trainings ended")).to_be_visible(timeout=TRAINING_MILLISECONDS)
    cells = service.http.get(f"/v1/evaluations/{made['id']}").json()["cells"]
    failures = page.get_by_role("list", name="What failed").get_by_role("listitem")
    expect(failures).to_have_count(2)
    for cell in cells:
        assert "There is nothing at" in cell["error"]
        expect(failures.filter(has_text=cell["method"])).to_contain_text(cell["error"])
    expect(page.get_by_text("Retry goes on from the last checkpoint")).to_be_visible()
    expect(page.get_by_role("region", name="Results").get_by_text("1 failed").first).to_be_visible()
    failures.get_by_role("link", name="finetune").click()
    expect(page.get_by_role("alert")).to_contain_text(cells[-1]["error"])
    expect(page.get_by_role("alert")).to_contain_text("Retry goes on from the last checkpoint")
    expect(page.get_by_role("heading", name="No curves")).to_be_visible()
    page.go_back()
    pictures.rename(folder)
    page.get_by_role("button", name="Retry finetune, seed 0").press("Enter")
    expect(page.get_by_role("button", name="Retry finetune, seed 0")).to_have_count(0)
    expect(failures.get_by_role("link", name="zero_shot")).to_be_focused()
    expect(page.get_by_text("2 of 2 trainings ended")).to_be_visible(timeout=TRAINING_MILLISECONDS)
    page.get_by_role("button", name="Retry all that failed").click()
    whole = page.get_by_role("region", name="Progress")
    expect(whole.get_by_text("Succeeded", exact=True)).to_be_visible(timeout=TRAINING_MILLISECONDS)
    expect(page.get_by_role("button", name=re.compile("^Retry"))).to_have_count(0)
    folder.rename(pictures)
    again = service.http.get(f"/v1/evaluations/{made['id']}").json()
    assert (again["status"], {cell["error"] for cell in again["cells"]}) == ("succeeded", {None})


def test_a_method_that_cannot_be_is_refused_in_words(evaluation, new_page):
    with new_page(expected="400") as page:
        page.goto(f"/#/evaluations/new?like={evaluation['id']}")
        page.get_by_text("Presets and other values").click()
        page.get_by_label("More methods").fill("magic")
        page.get_by_role("button", name="Start the evaluation").click()
        expect(page.get_by_role("alert").first).to_contain_text("magic")


def test_aliases_are_set_promoted_and_removed(job, service, page, screenshot):
    tuned = job["fine_tuned_model"]

    def aliases() -> dict:
        return {alias["id"]: alias["model"] for alias in service.http.get("/v1/aliases").json()["data"]}

    page.goto("/#/models")
    page.get_by_label("Model of production").select_option("starter")
    page.get_by_role("button", name="Set production").click()
    expect(page.get_by_role("status")).to_contain_text("production now stands for starter")
    page.get_by_label("Model of candidate").select_option(tuned)
    page.get_by_role("button", name="Set candidate").click()
    expect(page.get_by_role("status")).to_contain_text("candidate now stands for emoji")
    assert aliases() == {"production": "starter", "candidate": tuned}
    screenshot(page, "models")
    page.get_by_role("button", name="Promote to production").click()
    expect(page.get_by_role("status")).to_contain_text("production now stands for emoji")
    assert aliases() == {"production": tuned, "candidate": tuned}
    page.get_by_text("Another alias").click()
    for name in ("nightly", "weekly"):
        page.get_by_label("New alias", exact=True).fill(name)
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_label(f"Model of {name}")).to_be_visible()
    for name, neighbour in {"nightly": "weekly", "weekly": "candidate"}.items():
        page.get_by_role("button", name=f"Remove {name}").press("Enter")
        expect(page.get_by_label(f"Model of {neighbour}")).to_be_focused()
    page.get_by_role("button", name="Remove candidate").press("Enter")
    expect(page.get_by_role("button", name="Set candidate")).to_be_focused()
    assert aliases() == {"production": tuned}
    page.get_by_role("link", name="Try emoji").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value(tuned)


def test_without_classifications_the_page_teaches_what_they_give(page):
    page.goto("/#/classifications")
    expect(page.get_by_role("heading", name="No dataset was classified yet")).to_be_visible()


def test_a_whole_dataset_is_classified_and_its_answers_are_saved(classification, service, page, screenshot):
    result = classification["result"]
    page.goto(f"/#/classifications/{classification['id']}")
    expect(page.get_by_text(f"of {result['num_judged']} pictures in folders")).to_be_visible()
    expect(page.get_by_text(f"{100 * result['accuracy']:.1f}%", exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="Answers").get_by_role("row")).to_have_count(1 + 50)
    labels = page.get_by_role("region", name="Labels")
    expect(labels.get_by_role("listitem").first).to_contain_text(next(iter(result["num_by_label"])))
    screenshot(page, "classification")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save all answers").click()
    assert saved.value.suggested_filename == f"{classification['id']}.jsonl"
    results = service.http.get(classification["result_file"]).text
    assert saved.value.path().read_text() == results
    assert len(results.splitlines()) == result["num_images"]


def test_a_classification_by_other_labels_is_cancelled(classification, job, page, screenshot):
    page.goto("/#/classifications")
    expect(page.get_by_role("list", name="Classifications").get_by_role("listitem").first).to_contain_text("emoji.zip")
    page.get_by_label("Or an earlier upload").select_option(job["training_file"])
    page.get_by_label("Labels").fill("animal, thing")
    screenshot(page, "classifications", full_page=True)
    page.get_by_role("button", name="Classify all").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancelled", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Retry")).to_be_visible()


def test_a_dataset_that_is_not_there_is_named(new_page):
    with new_page(expected="400") as page:
        page.goto("/#/classifications")
        page.get_by_label("Or a reference").fill("/nowhere/pets")
        page.get_by_role("button", name="Use", exact=True).click()
        page.get_by_label("Labels").fill("cat, dog")
        page.get_by_role("button", name="Classify all").click()
        expect(page.get_by_role("alert")).to_contain_text("/nowhere/pets")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_on_any_page(
    theme, job, other_job, evaluation, classification, new_page, pictures, screenshot, check_accessibility
):
    with new_page(theme=theme, has_key=False) as page:
        page.goto("/")
        expect(page.get_by_label("API key")).to_be_visible()
        check_accessibility(page)
    with new_page(theme=theme) as page:
        for name in PAGES:
            open_page(page, name, job, evaluation, classification)
            check_accessibility(page)
            if theme == "dark" and name in ("jobs", "job", "job/similarity"):
                screenshot(page, f"{name.replace('/', '-')}-dark")
        page.goto(f"/#/try?model={job['fine_tuned_model']}")
        page.set_input_files("#pictures", next((pictures / "noto" / "cat").glob("*.png")))
        page.get_by_text("Where it looks").click()
        expect(page.get_by_role("img", name=re.compile("D-V branch"))).to_have_count(2)
        check_accessibility(page)


def test_every_page_fits_a_phone(job, other_job, evaluation, classification, new_page, screenshot, check_accessibility):
    with new_page(width=320, height=640) as page:
        for name in PAGES:
            open_page(page, name, job, evaluation, classification)
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 320, f"{name} is {width} pixels wide"
            if name in ("jobs", "job", "try", "models", "evaluation"):
                screenshot(page, f"{name}-phone")
        check_accessibility(page)


def test_everything_is_reached_by_keyboard(job, page):
    page.goto("/")
    expect(page.get_by_role("link", name="emoji")).to_be_visible()
    page.keyboard.press("Shift+Tab")  # the heading has the focus: what stands before it
    expect(page.get_by_role("button", name="Forget key")).to_be_focused()
    page.get_by_role("link", name="To the content").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_focused()
    page.get_by_role("link", name="emoji").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="emoji")).to_be_focused()


def test_colours_are_toggled_and_remembered(page):
    page.goto("/")
    page.get_by_role("button", name="Use dark colours").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 18, 22)"
    page.reload()
    expect(page.get_by_role("button", name="Use light colours")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 18, 22)"
