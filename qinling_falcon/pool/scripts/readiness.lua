-- readiness: finds out whether a pool manager is active and which runtimes have had no worker for too long.
-- ARGV    2 longest time that a runtime may be without a worker, in ms
-- reads   manager, bare
-- returns {name of the active pool manager, empty if none is active; then pairs of runtime and ms without a worker, for
--         those over the longest time}

local answer = {call('GET', P .. 'manager') or ''}
local bare = call('HGETALL', BARE)
for at = 1, #bare, 2 do
  local without = now - bare[at + 1]
  if without > tonumber(ARGV[2]) then
    answer[#answer + 1] = bare[at]
    answer[#answer + 1] = without
  end
end
return answer
