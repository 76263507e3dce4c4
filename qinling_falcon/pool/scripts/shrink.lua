-- shrink: fewer workers hold a version of a function.
-- ARGV    5 what their target begins with: 'function:version:'  6 how many less
-- reads   idle, leases, worker:<id>      writes  as drain
-- returns how many end
-- promises  of the workers that can get another call one is left, when there was one; free ones end first, the least
--           recently used first, leased ones after their call

local workers = holding(ARGV[5])
local count = math.max(0, math.min(tonumber(ARGV[6]), #workers - 1))
for at = 1, count do doom(workers[at]) end
return count
