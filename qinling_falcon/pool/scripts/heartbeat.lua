-- heartbeat: a process that leases is alive, and these are the leases that it knows.
-- ARGV    5 holder  6 server time in the answer to its heartbeat before: every lease that was granted to it until
--         then, and whose answer arrived, is in the list or released  7… worker:token of its leases
-- reads   worker:<id>      writes  holders, reported, held:<holder>; draining when writes were lost
-- returns {now, 1 when the holder was not known: Redis was emptied or lost writes, or the reaper took it for dead, so
--         its waiters may be in no queue any more}
-- promises  a worker whose record is older than a lease that its holder has (the lease was lost with Redis's last
--           writes) gets no further call: it may still be running

local held = P .. 'held:' .. ARGV[5]
local new = call('ZADD', HOLDERS, now, ARGV[5])
call('ZADD', REPORTED, ARGV[6], ARGV[5])
call('DEL', held)
for at = 7, #ARGV do
  call('SADD', held, ARGV[at])
  local worker, token = string.match(ARGV[at], '^(.*):(%d+)$')
  local known = call('HMGET', P .. 'worker:' .. worker, 'state', 'token')
  if known[1] and known[1] ~= 'starting' and (tonumber(known[2]) or 0) < tonumber(token) then doom(worker) end
end
return {text(now), new}
