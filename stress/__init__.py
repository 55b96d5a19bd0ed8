"""Long runs and benchmarks, on real hosts: `python -m stress NAME`.

bench       our figures beside those of our peers: --json F --plot DIR, names of parts
chaos       everything killed, stopped, starved and stepped at once, and the accounts checked: --seconds N --seed S
corruption  files of each kind damaged in every way, and read as every process would
defences    takes each defence against a fault away, and sees its test fail
fuzz        conditions and settings, by a grammar and by coverage
idle        what an idle worker costs: threads, and share of a core
interrupts  exceptions, calls and forks at every bytecode of the public calls; 61: at each 61st
model       writers, leader, server and disk against a model of the spool, through crashes and power cuts
stop        how long a host takes to stop while the server is away, with the SDK and without
sweep       each operation killed at every system call and bytecode, and given every error: names of operations
"""
