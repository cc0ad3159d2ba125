// The other datasets on which a job or an evaluation measures its weights, as a form has them, and their faults.

let numMade = 0;

/** One of them. `name` is empty where it shall be called as its file or folder is. */
export const makeTest = ({ dataset, name = "", class_names = null }) => ({ key: (numMade += 1), dataset, name, classNames: class_names });

/** As a request names them; undefined for none. */
export function testsBody(tests) {
  const one = ({ dataset, name, classNames }) => ({ dataset, ...(name.trim() ? { name: name.trim() } : {}), ...(classNames ? { class_names: classNames } : {}) });
  return tests.length ? tests.map(one) : undefined;
}

/** What a request does; the error of one that is refused tells which test datasets were asked about. */
export async function askingAbout(tests, request) {
  try {
    return await request;
  } catch (error) {
    throw Object.assign(error, { tests });
  }
}

export const isOfTests = (error) => error?.param?.split(".")[0] === "test_datasets";

/** {place, part, message} of an error in these test datasets; null for any other. `place` is missing where all are meant. */
export function faultIn(tests, error) {
  if (!isOfTests(error) || error.tests !== tests) return null;
  const [, place, part] = error.param.split(".");
  const message = part === "name" ? "A name has letters, digits, - and _, and begins with a letter or a digit." : error.message.replace(`${error.param}: `, "");
  return { place: place && Number(place), part, message };
}
