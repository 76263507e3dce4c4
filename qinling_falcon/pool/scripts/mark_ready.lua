-- mark_ready: records that a worker answers, and gives it to the first queue that wants one.
-- ARGV    2 worker  3 runtime  4 the image that it was made from  5 address  6 secret
-- reads   worker:<id>, policy, runtimes, escalated:<runtime>
-- writes  worker:<id>, workers, live:<runtime>, starting:<runtime>, warm:<runtime> or draining, bare; for queues that
--         are served now what lease writes, their entries, grants:<holder>
-- promises  The first queue that wants one more worker gets it. Only if there is none does it stay warm.
--           A worker that Redis does not know (Redis was emptied meanwhile) is registered, too. It drains if there are
--           max_workers without it. Before the manager has written its limits again, nothing happens.

local worker, runtime = ARGV[2], ARGV[3]
local is = call('HMGET', record(worker), 'state', 'started')
local max_workers = tonumber(call('HGET', POLICY, 'max_workers'))
if (is[1] and is[1] ~= 'starting') or not max_workers then return 0 end
call('ZREM', P .. 'starting:' .. runtime, worker)
call('SADD', WORKERS, worker)
call('HSET', record(worker), 'runtime', runtime, 'image', ARGV[4], 'address', ARGV[5], 'secret', ARGV[6], 'ready',
  text(now))
note('started', is[2] and 'ready after ' .. text(now - is[2]) .. ' ms', {worker = worker, runtime = runtime})
if call('SCARD', WORKERS) > max_workers then
  put_draining(worker, runtime)
  return 1
end
call('SADD', P .. 'live:' .. runtime, worker)
call('HDEL', BARE, runtime)
put_warm(worker, runtime)
give_warm(runtime, 0)
give_all_warm(runtime, 1)
return 1
