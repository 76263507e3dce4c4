-- starting: a worker is about to be started.
-- ARGV    5 worker  6 runtime  7 the image that it is made from
-- reads   runtimes, workers      writes  worker:<id>, workers, starting:<runtime>
-- returns 1, or 0: there is no room or no such pool (or such a worker already), don't start it
-- promises  never more than max_workers

if call('HEXISTS', RUNTIMES, ARGV[6]) == 0 or call('SCARD', WORKERS) >= MAX_WORKERS
  or call('SADD', WORKERS, ARGV[5]) == 0 then return 0 end
call('HSET', P .. 'worker:' .. ARGV[5], 'state', 'starting', 'runtime', ARGV[6], 'image', ARGV[7], 'started', text(now))
call('ZADD', P .. 'starting:' .. ARGV[6], now, ARGV[5])
return 1
