// Data of the API as state of a part: what was there stays on the screen while news is on its way.

import { get } from "./api.js";
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "./html.js";
import { followJob, isFinished } from "./stream.js";

const FLUSH_MILLISECONDS = 120; // many messages, one drawing
const AGAIN_SECONDS = 3; // after a request that another try may mend
const REFRESH_SECONDS = 4; // the stream tells a job when its state changes; its place and its end move in between

/** {data, error, reload} of a function that takes an AbortSignal; asked again when `inputs` change. */
export function useLoaded(load, inputs) {
  const [state, setState] = useState({ data: null, error: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    load(abort.signal).then(
      (data) => abort.signal.aborted || setState({ data, error: null }),
      (error) => abort.signal.aborted || setState((old) => ({ ...old, error })),
    );
    return () => abort.abort();
  }, [...inputs, turn]);
  const reload = useCallback(() => setTurn((old) => old + 1), []);
  useKeyEvent(reload);
  useEvery(AGAIN_SECONDS, () => mayPass(state.error) && reload());
  return { ...state, reload };
}

/** Run a function once another key is there. */
function useKeyEvent(run) {
  useEffect(() => {
    addEventListener("key", run);
    return () => removeEventListener("key", run);
  }, [run]);
}

/** Nobody answers, or the service itself is in trouble. */
const mayPass = (error) => error != null && (error.status === 0 || error.status >= 500);

/** A GET as state; a null path asks nothing. */
export const useGet = (path) => useLoaded(async (signal) => (path ? get(path, { signal }) : null), [path]);

/** A job as it happens: {job, events, train, evaluations, isConnected, error, restart}. */
export function useJob(id) {
  const [turn, setTurn] = useState(0);
  const [state, setState] = useState(EMPTY_JOB);
  const moving = useRef({}); // what was asked for since the stream last told the job
  useEffect(() => {
    const abort = new AbortController();
    const news = { job: null, events: [], train: [], evaluations: [], timer: null };
    const flush = () => {
      news.timer = null;
      const { job, events, train, evaluations } = news;
      setState((old) => ({ ...old, job: withStep({ ...job, ...moving.current }, train), events: [...events], train: [...train], evaluations: [...evaluations] }));
    };
    const onMessage = (name, data) => {
      if (name === "job") [news.job, moving.current] = [data, {}];
      else if (name === "event") news.events.push(data);
      else (data.kind === "train" ? news.train : news.evaluations).push(data);
      if (news.job) news.timer ??= setTimeout(flush, FLUSH_MILLISECONDS);
    };
    const onConnection = (isConnected) => setState((old) => ({ ...old, isConnected, error: null }));
    followJob(id, { signal: abort.signal, onMessage, onConnection }).catch((error) => setState((old) => ({ ...old, error })));
    return () => {
      abort.abort();
      clearTimeout(news.timer);
    };
  }, [id, turn]);
  useEvery(REFRESH_SECONDS, async () => {
    if (!state.job || isFinished(state.job)) return;
    const { queue, estimated_finish } = await get(`/fine_tuning/jobs/${encodeURIComponent(id)}`).catch(() => state.job);
    moving.current = { queue, estimated_finish };
    setState((old) => ({ ...old, job: { ...old.job, ...moving.current } }));
  });
  const restart = useCallback(() => setTurn((old) => old + 1), []);
  useKeyEvent(restart);
  return { ...state, restart };
}

const EMPTY_JOB = { job: null, events: [], train: [], evaluations: [], isConnected: true, error: null };

/** The stream tells the job's step only with its status; its numbers know better. */
export function withStep(job, train) {
  const step = train.at(-1)?.step ?? 0;
  return step > job.progress.step ? { ...job, progress: { ...job.progress, step } } : job;
}

/** Run a function every so many seconds while the page is looked at; the newest function is the one that runs. */
export function useEvery(seconds, run) {
  const newest = useRef(run);
  newest.current = run;
  useEffect(() => {
    const timer = setInterval(() => document.hidden || newest.current(), seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
}

/** Run a function, with an AbortSignal, so long after `key` changed last. */
export function useDelayed(key, milliseconds, run) {
  useEffect(() => {
    const abort = new AbortController();
    const timer = setTimeout(() => run(abort.signal), milliseconds);
    return () => (clearTimeout(timer), abort.abort());
  }, [key]);
}

/** {run, isBusy, error}: an action that is not started twice. */
export function useAction(action) {
  const [state, setState] = useState({ isBusy: false, error: null });
  const run = async (...given) => {
    if (state.isBusy) return;
    setState({ isBusy: true, error: null });
    try {
      await action(...given);
      setState({ isBusy: false, error: null });
    } catch (error) {
      if (error.name !== "AbortError") setState({ isBusy: false, error });
    }
  };
  return { ...state, run };
}

/** A scrolling element that stays at its end while more comes, unless the person has scrolled away from it. */
export function useEnd(content) {
  const box = useRef(null);
  const isAtEnd = useRef(true);
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const note = () => (isAtEnd.current = element.scrollTop + element.clientHeight > element.scrollHeight - 8);
    element.addEventListener("scroll", note);
    return () => element.removeEventListener("scroll", note);
  }, [box.current]);
  useLayoutEffect(() => void (box.current && isAtEnd.current && (box.current.scrollTop = box.current.scrollHeight)), [content]);
  return box;
}

/** Width of an element in whole pixels, 0 before it is known. */
export function useWidth() {
  const box = useRef(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  return [box, width];
}
