-- configure: gives a runtime a pool, or changes its stock.
-- ARGV    2 runtime  3 how many warm workers it keeps
-- writes  runtimes, wakeups

call('HSET', RUNTIMES, ARGV[2], ARGV[3])
wake()
return 1
