-- evict: drains an idle or warm worker, to make room for another one.
-- ARGV    2 worker  3 the time, in ms, for which it must have been unused  4 the reason, for the operator
-- reads   worker:<id>, idle or warm:<runtime>
-- writes  what drain writes
-- returns 1; 0: it is not free, or was used meanwhile

local is = call('HMGET', record(ARGV[2]), 'state', 'runtime', 'target')
local since
if is[1] == 'idle' then
  since = call('ZSCORE', IDLE, ARGV[2])
elseif is[1] == 'warm' then
  since = call('ZSCORE', P .. 'warm:' .. is[2], ARGV[2])
end
if not since or now - tonumber(since) < tonumber(ARGV[3]) then return 0 end
drain(ARGV[2], 'evicted', ARGV[4])
return 1
