"""What is kept of a run: run.json and samples.jsonl, written so that a crash loses at most one sample.

May import the rooms below `suites`, and never brings torch.

record.py                run.json and samples.jsonl: the only writer
reading.py               their reader, which trusts nothing
sealing.py               the seal of a run folder: digests that name what was altered
mixing.py                what a run must not mix, and `compare` must not put side by side
rank_files.py            lines of several processes that measure one run
merging.py               joins the runs of `run --shard i/N` into one record
run_record.py            run.json, field by field
shared_record.py         run.json of shards, and of runs of several processes
apart_record.py          its fields of what was measured apart from the samples
sample_line.py           a line of samples.jsonl, field by field
schema.py                JSON schemas of both
run_folders.py           the run folders that a user means who names folders
undisturbed.py           moments in which Ctrl-C waits
storage.py               sealed lines, files replaced as a whole, locks
identities.py            checks that the numbers within one line agree
compact.py               keeps a million lines in memory
trace.py                 what a method reports: counts and seconds
document_frequencies.py  word counts of the whole suite, for the CIDEr-D of a run with `--limit`
"""
