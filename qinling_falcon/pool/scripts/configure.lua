-- configure: a runtime has a pool.
-- ARGV    5 runtime  6 how many warm workers it keeps
-- reads   lines      writes  runtimes, wakeups

call('HSET', RUNTIMES, ARGV[5], ARGV[6])
wake()
settle_queue()
return 1
