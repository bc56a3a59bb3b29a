"""Base classes for benchmarks: prompt, grading and sample format by kind of answer (math, choice, code), reading of
published files (rows), and benchmarks made from a job's [[benchmark]] table (user_data). Your own benchmark builds on
these modules: each says how."""
