-- take_ready: takes executions that are due, from all projects in turn.
-- ARGV    2 holder  3 how many, at most  4… projects that are left out
-- reads   ready, ready:<project>
-- writes  ready, ready:<project>, drains
-- returns {ms until the next execution is due, or -1: none is known; executions…}
-- promises  Each project that is due gets the same share, of at most 16 projects at once. A project that was served
--           comes after all that were not. A drain that could take more is woken by the next push.

local MOST_PROJECTS = 16

local left_out, is_left_out = #ARGV - 3, {}
for at = 4, #ARGV do is_left_out[ARGV[at]] = true end
local projects = {}
for _, project in ipairs(call('ZRANGEBYSCORE', READY, '-inf', now, 'LIMIT', 0, MOST_PROJECTS + left_out)) do
  if not is_left_out[project] and #projects < MOST_PROJECTS then projects[#projects + 1] = project end
end

local left, taken = tonumber(ARGV[3]), {-1}
local function take(project, most)
  local due = call('ZRANGEBYSCORE', ready_of(project), '-inf', now, 'LIMIT', 0, most)
  if #due > 0 then call('ZREM', ready_of(project), unpack(due)) end
  for _, execution in ipairs(due) do taken[#taken + 1] = execution end
  left = left - #due
end

for at, project in ipairs(projects) do take(project, math.ceil(left / (#projects - at + 1))) end
for _, project in ipairs(projects) do
  if left > 0 then take(project, left) end  -- what other projects have left of their shares
  local first = first_of(project)
  if first then
    call('ZADD', READY, text(math.max(first, now)), project)
  else
    call('ZREM', READY, project)
  end
end
if left == 0 then return taken end

call('ZADD', DRAINS, text(now), ARGV[2])
for _, project in ipairs(call('ZRANGE', READY, 0, left_out)) do
  local first = not is_left_out[project] and first_of(project)
  if first then
    taken[1] = math.max(0, first - now)
    break
  end
end
return taken
