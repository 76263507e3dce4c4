-- heartbeat: reports that a process is alive, and which leases it knows.
-- ARGV    2 holder  3 the server time in the reply to its last heartbeat: every lease that was granted to it by then,
--         and whose reply arrived, is in the list or released  4 executions to acknowledge  5… worker:token of its
--         leases
-- reads   worker:<id> of the leases
-- writes  holders, former, reported, held:<holder>, journal:<holder>; of a holder that was not known: its entries
-- returns {now, 1 if the holder was not known}. It is not known if Redis was emptied or lost writes, or if the reaper
--         took it for dead. Its calls must then ask again, because they may be in no queue.
-- promises  A holder that was not known has no entries. If the record of a worker is older than a lease that its holder
--           has, Redis has lost the lease with its last writes. The worker drains, because it may still run a call.

acknowledge(ARGV[2], ARGV[4])
call('ZREM', FORMER, ARGV[2])
local held = P .. 'held:' .. ARGV[2]
local new = call('ZADD', HOLDERS, now, ARGV[2])
call('ZADD', P .. 'reported', ARGV[3], ARGV[2])
if new == 1 then
  for _, queue in ipairs(call('SMEMBERS', ENTRIES_OF .. ARGV[2])) do set_entry(queue, ARGV[2], 0, now) end
end
call('DEL', held)
for at = 5, #ARGV do
  call('SADD', held, ARGV[at])
  local worker, token = string.match(ARGV[at], '^(.*):(%d+)$')
  local known = call('HMGET', record(worker), 'state', 'token')
  if known[1] and known[1] ~= 'starting' and (tonumber(known[2]) or 0) < tonumber(token) then
    drain(worker, 'ended', 'Redis had lost its lease')
  end
end
return {text(now), new}
