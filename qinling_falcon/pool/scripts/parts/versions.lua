-- versions: the workers of one version of a function.
-- include: workers

-- The workers of a function that can get another call and whose target starts with `beginning`: idle ones, the least
-- recently used first, then leased ones.
local function workers_of(function_id, beginning)
  local found = {}
  for _, worker in ipairs(call('SMEMBERS', P .. 'assigned:' .. function_id)) do
    local is = call('HMGET', record(worker), 'target', 'state', 'drain', 'granted')
    if string.sub(is[1], 1, #beginning) == beginning and not is[3] then
      found[#found + 1] = {worker, is[2] == 'idle' and 0 or 1, tonumber(is[4])}
    end
  end
  table.sort(found, function(one, other)
    if one[2] ~= other[2] then return one[2] < other[2] end
    if one[3] ~= other[3] then return one[3] < other[3] end
    return one[1] < other[1]
  end)
  local names = {}
  for at = 1, #found do names[at] = found[at][1] end
  return names
end
