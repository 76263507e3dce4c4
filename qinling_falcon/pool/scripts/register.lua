-- register: records a worker that the manager is about to start.
-- ARGV    2 worker  3 runtime  4 the image that it is made from
-- reads   runtimes, workers, policy
-- writes  workers, worker:<id>, starting:<runtime>
-- returns 1: start it; 0: don't, because there are max_workers workers, the runtime has no pool, or the id is in use
-- promises  there are never more than max_workers workers

if call('HEXISTS', RUNTIMES, ARGV[3]) == 0
  or call('SCARD', WORKERS) >= (tonumber(call('HGET', POLICY, 'max_workers')) or 0)
  or call('SADD', WORKERS, ARGV[2]) == 0 then return 0 end
call('HSET', record(ARGV[2]), 'state', 'starting', 'runtime', ARGV[3], 'image', ARGV[4], 'started', text(now))
call('ZADD', P .. 'starting:' .. ARGV[3], now, ARGV[2])
return 1
