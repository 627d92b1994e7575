# Runs a real Prometheus that scrapes one server every second, and promtool.
package Test::Memstat::Prometheus;

use strict;
use warnings;

use Exporter 'import';
use File::Temp;
use HTTP::Tiny;
use JSON::PP;
use Time::HiRes qw(sleep time);

use Test::Memstat::Child;
use Test::Memstat::Proc qw(read_file);
use Test::Memstat::Port qw(free_port);

our @EXPORT_OK = qw(promtool series);

# Runs promtool on an input. Returns whether it accepts the input, and its output.
sub promtool {
    my ($input, @arguments) = @_;
    my $file = File::Temp->new;
    print $file $input;
    close $file;
    my $said = `promtool @arguments <'$file' 2>&1`;
    return ($? == 0, $said);
}

# Returns the series of a scrape: their names with sorted labels, and their values.
sub series {
    my ($text) = @_;
    my %series;
    for (grep { /^[^#]/ } split /\n/, $text) {
        my ($name, $labels, $value) = /^(\w+)(?:\{(.*)\})? (\S+)$/ or die "not a series: $_\n";
        my %labels = ($labels // '') =~ /(\w+)="((?:[^"\\]|\\.)*)"/g;
        my $key = key($name, %labels);
        die "$key twice\n" if exists $series{$key};
        $series{$key} = $value;
    }
    return \%series;
}

# Returns a name for a series. Labels without a value are left out.
sub key {
    my ($name, %labels) = @_;
    return "$name\{" . join(',', map { qq{$_="$labels{$_}"} } grep { length $labels{$_} } sort keys %labels) . '}';
}

# Starts a Prometheus that scrapes this path of a server and, if a file of rules is given, evaluates these.
sub new {
    my ($class, $target, $path, $rules) = @_;
    my $folder = File::Temp->newdir('memstat-XXXXXX', TMPDIR => 1);
    my $port   = free_port();
    my $self = bless {
        folder => $folder, base => "http://127.0.0.1:$port",
        http => HTTP::Tiny->new(timeout => 10, proxy => undef, http_proxy => undef),
    }, $class;
    open my $conf, '>', "$folder/prometheus.yml" or die "cannot write: $!\n";
    print $conf <<"END";
global: { scrape_interval: 1s, scrape_timeout: 1s }
scrape_configs:
  - job_name: memstat
    metrics_path: $path
    static_configs: [ { targets: ["$target"] } ]
END
    print $conf "rule_files: [ \"$rules\" ]\n" if $rules;
    close $conf or die "cannot write: $!\n";
    $self->{child} = Test::Memstat::Child->new("$folder/log", 'prometheus',
        "--config.file=$folder/prometheus.yml", "--storage.tsdb.path=$folder/data",
        "--web.listen-address=127.0.0.1:$port", '--log.level=warn');
    my $deadline = time + 60;
    until ($self->{http}->get("$self->{base}/-/ready")->{success}) {
        die "Prometheus does not start:\n", read_file("$folder/log") // '' if time > $deadline;
        sleep 0.1;
    }
    return $self;
}

# Returns the current series of an expression, without the labels of the scrape.
sub query {
    my ($self, $expression) = @_;
    my $answer = $self->{http}->post_form("$self->{base}/api/v1/query", { query => $expression });
    die "$expression: $answer->{content}\n" unless $answer->{success};
    my $reply = JSON::PP->new->utf8->decode($answer->{content});
    my %series;
    for (@{ $reply->{data}{result} }) {
        my %labels = %{ $_->{metric} };
        my $name = delete $labels{__name__} // '';
        delete @labels{qw(job instance)};
        $series{ key($name, %labels) } = $_->{value}[1];
    }
    return \%series;
}

# Returns the data of another answer of the API.
sub get {
    my ($self, $path, %parameters) = @_;
    my $parameters = $self->{http}->www_form_urlencode(\%parameters);
    my $answer = $self->{http}->get("$self->{base}/api/v1/$path?$parameters");
    die "$path: $answer->{content}\n" unless $answer->{success};
    return JSON::PP->new->utf8->decode($answer->{content})->{data};
}

sub stop { return $_[0]{child}->stop }

1;
