-- Puts a message that is not settled to the dead letters.
-- KEYS: group, shard, settled, messages that come again, what was brought back, dead letters, what holds keys, stream
-- ARGV: position, 1 also when it is out, 1 to look only, 'key' and the key that it will hold or '', stream of a copy or '',
--       fields of the dead letter but for its attempts ..
local position = ARGV[1]
local shard = redis.call('HMGET', KEYS[2], 'low', 'out', 'epoch', 'owner', 'until', 'taken')
local low = shard[1]
if not low then return {'unplaced'} end
local settled = before(position, low)
local ranges = redis.call('HGETALL', KEYS[3])
for i = 1, #ranges, 2 do
  settled = settled or (not before(position, ranges[i]) and before(position, ranges[i + 1]))
end
if settled then return {'settled'} end
local time = redis.call('TIME')
local owned = shard[4] and tonumber(shard[5]) > time[1] * 1000 + math.floor(time[2] / 1000)
local attempts, out = 0, false
local known = redis.call('HGET', KEYS[4], position)
if known then
  local made, epoch = string.match(known, '^(%d+) %S+ %S+ (%d+) ')
  attempts, out = tonumber(made), owned and epoch == shard[3]
elseif before(position, shard[2]) then
  attempts, out = 1, owned and not before(position, shard[6] or low)
end
if out and ARGV[2] == '0' then return {'out', shard[4]} end
if ARGV[3] == '1' then
  return {'done', (tonumber(redis.call('HGET', KEYS[1], 'deaths')) or 0) + 1}
end
if ARGV[5] ~= '' and redis.call('TYPE', ARGV[5]).ok ~= 'stream' then
  return {'nowhere'}
end
if out then
  -- The receipts of the member are void: it gets the partition again, with what it had.
  redis.call('HDEL', KEYS[2], 'owner')
  redis.call('HINCRBY', KEYS[2], 'epoch', 1)
end
local function behind(id)
  local millis, sequence = string.match(id, '^(%d+)%-(%d+)$')
  return millis .. '-' .. string.format('%.0f', tonumber(sequence) + 1)
end
local from = low
local last = redis.call('XREVRANGE', KEYS[8], '(' .. position, '-', 'COUNT', 1)[1]
if last and before(low, behind(last[1])) then from = behind(last[1]) end
local fields = {}
for i = 6, #ARGV do fields[#fields + 1] = ARGV[i] end
fields[#fields + 1] = 'dead:attempts'
fields[#fields + 1] = tostring(attempts)
local number = bury(KEYS[1], KEYS[6], ARGV[5], fields)
if ARGV[4] ~= '' then redis.call('HSET', KEYS[7], number, string.sub(ARGV[4], 4)) end
redis.call('HDEL', KEYS[4], position)
settle(KEYS[2], KEYS[3], from, behind(position), 1)
changed(KEYS[1])
return {'done', tonumber(number)}
