-- readiness: finds out whether a pool manager is active and which runtimes have had no worker for too long.
-- ARGV    5 longest time that a runtime may be without a worker, in ms
-- reads   manager, bare      writes  nothing
-- returns {1 if a pool manager is active, else 0; then pairs of runtime and ms without a worker, for those over the
--         longest time}

local answer = {call('EXISTS', P .. 'manager')}
local bare = call('HGETALL', BARE)
for at = 1, #bare, 2 do
  local without = now - bare[at + 1]
  if without > tonumber(ARGV[5]) then
    answer[#answer + 1] = bare[at]
    answer[#answer + 1] = without
  end
end
return answer
